"""Classifier: any model of images, as one pytree whose leaves are its parameters.

A function jitted over a Classifier is compiled once for all models with the same `forward`. There
is one class for all models: JAX may confuse pytrees of two classes whose fields are equal.

There is no clip before the normalisation: the derivative of ``jnp.clip`` is 1/2 at pixels that
are exactly 0 or 1, which bends l2 attacks; attacks and noise keep images in the box themselves.
"""

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from advspur._checks import InputError, check_images, require
from advspur._files import tree_digest


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("params",),
    meta_fields=("forward", "num_classes", "has_features"),
    drop_fields=("image_size", "class_names", "name", "code", "note"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """Maps images in [0, 1], [n, h, w, 3], to logits and, if it has them, features.

    `forward` is hashable, (params, images) -> (logits [n, num_classes], features [n, d] or None);
    models with equal `forward` share compiled programs. The last five fields are facts for the
    host; JAX drops them when it rebuilds the pytree.

    >>> import advspur.models as models
    >>> network = models.resnet_small(8)
    >>> x = jnp.zeros((2, 16, 16, 3))
    >>> variables = jax.jit(network.init)(jax.random.key(0), x)
    >>> classifier = models.from_resnet(network, variables, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> classifier.logits(x).shape, classifier.features(x).shape
    ((2, 8), (2, 64))
    """

    params: object  # a pytree of arrays
    forward: Callable
    num_classes: int
    has_features: bool = True
    image_size: int | None = None  # side of the images it takes; None: any
    class_names: tuple = ()  # of its outputs, in order
    name: str = ""  # in records and messages
    code: str | None = None  # identifies the code of `forward`; None: its results are not kept
    note: str = ""  # where and how it runs, for scripts to print

    def logits(self, images):
        """[n, num_classes] float32."""
        check_images(images)
        return _forward(self, images)[0]

    def features(self, images):
        """[n, d] float32: the input of the last linear layer."""
        require(
            self.has_features,
            f"{self.name or 'the model'} has no features: give `features` when you make it",
        )
        check_images(images)
        return _forward(self, images)[1]

    @functools.cached_property
    def digest(self):
        """SHA-256 of what the model computes: its parameters and code; None without `code`."""
        if self.code is None:
            return None
        text = f"{tree_digest(self.params)} {self.forward!r} {self.num_classes} {self.code}"
        return hashlib.sha256(text.encode()).hexdigest()


def check_is_model(model):
    """Raise InputError, naming the constructor to use, unless `model` is a Classifier."""
    if isinstance(model, Classifier):
        return
    torch, kind = sys.modules.get("torch"), type(model).__name__
    if torch is not None and isinstance(model, torch.nn.Module):
        maker = "from_torch(module, mean=..., std=...)"
    elif isinstance(model, nn.Module):
        maker = "from_flax(module, variables, mean=..., std=...)"
    elif isinstance(model, nnx.Module):
        maker = "from_flax(module, mean=..., std=...)"
    elif callable(model):
        maker = "from_function(logits, num_classes=K, name=...)"
    else:
        maker = "load(NAME), from_function(...), from_flax(...) or from_torch(...)"
    raise InputError(f"a {kind} is not a model; make one with advspur.models.{maker}")


def classifier_facts(classifier):
    """Return the facts of a model that no run of ours trained."""
    return {
        "model": classifier.name,
        "arch": getattr(classifier.forward, "arch", type(classifier.forward).__name__),
        "num_classes": classifier.num_classes,
        "image_size": classifier.image_size,
        "class_names": classifier.class_names,
        "has_features": classifier.has_features,
        "dataset": "unknown",
        "shapes": {},
        "train_p": None,
        "train_epsilon": None,
        "seed": 0,
        "step": 0,
        "checksum": classifier.digest,
    }


def record_facts(facts):
    """Return the fields of a `Record` that identify its model."""
    names = ("model", "arch", "train_p", "train_epsilon", "seed")
    return {name: facts[name] for name in names} | {"recipe": facts.get("recipe", {})}


def normalize(images, mean, std):
    """(images - mean) / std per channel."""
    return (images - jnp.asarray(mean, images.dtype)) / jnp.asarray(std, images.dtype)


@jax.jit
def _forward(classifier, images):
    return classifier.forward(classifier.params, images)


@dataclasses.dataclass(frozen=True)
class LinearHead:
    """The forward of a model with a new last layer on its features, in float32."""

    base: Callable
    num_base_classes: int

    def __call__(self, params, images):
        """(features @ kernel + bias, features)."""
        _, features = self.base(params["base"], images)
        return features @ params["kernel"] + params["bias"], features


def with_head(classifier, kernel, bias):
    """The Classifier with a new last layer: features [n, d] @ kernel [d, k] + bias [k]."""
    check_is_model(classifier)
    require(classifier.has_features, f"{classifier.name or 'the model'} has no features for a head")
    forward = LinearHead(classifier.forward, classifier.num_classes)
    return _above(classifier, forward, len(bias), kernel=kernel, bias=bias)


def _above(classifier, forward, num_classes, **params):
    """The Classifier with `forward` on top of its forward."""
    params = {"base": classifier.params} | {k: jnp.asarray(v) for k, v in params.items()}
    return dataclasses.replace(
        classifier, params=params, forward=forward, num_classes=num_classes, class_names=()
    )


@dataclasses.dataclass(frozen=True)
class ClassMap:
    """The forward of a model over groups of its classes, see `with_class_map`."""

    base: Callable
    num_base_classes: int
    num_groups: int
    with_rest: bool

    def __call__(self, params, images):
        """(pooled logits, features)."""
        logits, features = self.base(params["base"], images)
        pooled = pool(logits, params["groups"], self.num_groups, with_rest=self.with_rest)
        return pooled, features


def with_class_map(classifier, groups, num_groups, *, with_rest=True):
    """The Classifier over groups of its classes: it predicts the group of its prediction.

    Args:
      groups: [num_classes of the classifier] int, the group of each class; -1: none.
      num_groups: number of groups.
      with_rest: whether the classes of no group form one more group, the last; else they are
        ignored.
    """
    check_is_model(classifier)
    forward = ClassMap(classifier.forward, classifier.num_classes, num_groups, with_rest)
    return _above(classifier, forward, num_groups + with_rest, groups=groups)


def base_of(classifier):
    """Return the Classifier below a head or a class map, or `classifier` itself."""
    check_is_model(classifier)
    forward = classifier.forward
    if not isinstance(forward, (LinearHead, ClassMap)):
        return classifier
    return dataclasses.replace(
        classifier,
        params=classifier.params["base"],
        forward=forward.base,
        num_classes=forward.num_base_classes,
    )


@functools.partial(jax.jit, static_argnums=2, static_argnames="with_rest")
def pool(logits, groups, num_groups, *, with_rest=True):
    """The largest logit of each group, from logits [n, k].

    All are NaN for an image with a logit that is not finite. A group without a class has the
    smallest finite number.
    """
    groups = jnp.where(groups < 0, num_groups, groups)
    pooled = jax.ops.segment_max(logits.T, groups, num_segments=num_groups + with_rest).T
    pooled = jnp.maximum(pooled, jnp.finfo(pooled.dtype).min)
    return jnp.where(jnp.all(jnp.isfinite(logits), axis=-1, keepdims=True), pooled, jnp.nan)
