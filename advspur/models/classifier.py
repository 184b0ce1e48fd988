"""Classifier: a network, its variables and its own normalisation, as one pytree.

The variables are leaves; module and normalisation are static. A function jitted over a
Classifier is therefore compiled once for all models of one architecture.

There is no clip before the normalisation: the derivative of ``jnp.clip`` is 1/2 at pixels that
are exactly 0 or 1, which bends l2 attacks; whatever perturbs images keeps them in the box.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from advspur._checks import check_images


@flax.struct.dataclass
class Classifier:
    """Maps images in [0, 1], [n, h, w, 3], to logits and features.

    >>> import advspur.models as models
    >>> network = models.resnet_small(8)
    >>> x = jnp.zeros((2, 16, 16, 3))
    >>> variables = network.init(jax.random.key(0), x)
    >>> classifier = Classifier(variables, network, (0.5,) * 3, (0.25,) * 3)
    >>> classifier.logits(x).shape, classifier.features(x).shape
    ((2, 8), (2, 64))
    """

    variables: dict
    network: nn.Module = flax.struct.field(pytree_node=False)
    mean: tuple = flax.struct.field(pytree_node=False)
    std: tuple = flax.struct.field(pytree_node=False)

    @property
    def num_classes(self):
        """Length of a row of logits."""
        return self.network.num_classes

    def logits(self, images):
        """[n, num_classes] float32, with running batch statistics."""
        check_images(images)
        return _forward(self, images)[0]

    def features(self, images):
        """[n, d] float32: the input of the last linear layer."""
        check_images(images)
        return _forward(self, images)[1]


@flax.struct.dataclass
class PooledClassifier:
    """A Classifier over groups of its classes: the logit of a group is that of its largest class.

    Its prediction is the group of the Classifier's prediction.

    Args:
      classifier: a `Classifier`.
      groups: [num_classes of the classifier] int, the group of each class; -1: none.
      num_groups: number of groups.
      with_rest: whether the classes of no group make one more, the last; else they are left out.
    """

    classifier: Classifier
    groups: jax.Array
    num_groups: int = flax.struct.field(pytree_node=False)
    with_rest: bool = flax.struct.field(pytree_node=False, default=True)

    @property
    def num_classes(self):
        """Length of a row of logits."""
        return self.num_groups + self.with_rest

    def logits(self, images):
        """[n, num_classes] float32."""
        return self.pool(self.classifier.logits(images))

    def pool(self, logits):
        """The logits of the groups from those of the classes, [n, k]; NaN where one is not finite.

        A group without a class has the smallest finite number.
        """
        groups = jnp.where(self.groups < 0, self.num_groups, self.groups)
        pooled = jax.ops.segment_max(logits.T, groups, num_segments=self.num_classes).T
        pooled = jnp.maximum(pooled, jnp.finfo(pooled.dtype).min)
        return jnp.where(jnp.all(jnp.isfinite(logits), axis=-1, keepdims=True), pooled, jnp.nan)


def with_head(classifier, kernel, bias):
    """The Classifier with another last layer: features [n, d] @ kernel [d, k] + bias [k]."""
    head = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    params = classifier.variables["params"] | {"fc": head}
    return classifier.replace(
        variables=classifier.variables | {"params": params},
        network=classifier.network.clone(num_classes=head["bias"].shape[0]),
    )


def normalize(images, mean, std):
    """(images - mean) / std per channel."""
    return (images - jnp.asarray(mean, images.dtype)) / jnp.asarray(std, images.dtype)


@jax.jit
def _forward(classifier, images):
    images = normalize(images, classifier.mean, classifier.std)
    return classifier.network.apply(classifier.variables, images)
