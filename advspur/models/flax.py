"""from_flax: models that are Flax modules, of Linen or NNX."""

import dataclasses
import inspect
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from advspur._checks import check_count, require
from advspur.models.checks import check_size, checked_outputs, foreign_code, pick
from advspur.models.classifier import Classifier, normalize

# Arguments of a call that tell training from evaluation, as they are in evaluation.
EVALUATION = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}


@dataclasses.dataclass(frozen=True)
class LinenCall:
    """(variables, images) -> output of a Linen module."""

    module: nn.Module
    mode: tuple

    def __call__(self, variables, images):
        """The module's output."""
        return self.module.apply(variables, images, **dict(self.mode))


@dataclasses.dataclass(frozen=True)
class NnxCall:
    """(leaves, images) -> output of an NNX module that `nnx.split` took apart."""

    graph: nnx.GraphDef
    structure: object
    keys: tuple  # for each leaf, the implementation of the PRNG key that it is; None where it isn't
    mode: tuple

    def __call__(self, leaves, images):
        """The module's output."""
        leaves = [
            leaf if kind is None else jax.random.wrap_key_data(leaf, impl=kind)
            for leaf, kind in zip(leaves, self.keys, strict=True)
        ]
        module = nnx.merge(self.graph, jax.tree.unflatten(self.structure, leaves))
        return module(images, **dict(self.mode))


@dataclasses.dataclass(frozen=True)
class FlaxForward:
    """The forward of a model that is a Flax module with its normalisation."""

    call: Callable = dataclasses.field(repr=False)
    mean: tuple
    std: tuple
    logits: object
    features: object
    num_classes: int | None
    image_size: int | None
    arch: str
    name: str = dataclasses.field(compare=False, repr=False)

    def __call__(self, params, images):
        """(logits, features), checked."""
        check_size(self.name, self.image_size, images)
        what = f"the module {self.arch}"
        with foreign_code(what):
            output = self.call(params, normalize(images, self.mean, self.std))
        logits, features = pick(what, output, self.logits, "logits"), None
        if self.features is not None:
            features = pick(what, output, self.features, "features")
        return checked_outputs(self.name, images, self.num_classes, logits, features)


def from_flax(
    module,
    variables=None,
    *,
    mean,
    std,
    num_classes=None,
    image_size=None,
    logits=None,
    features=None,
    mode=None,
    name="",
):
    """The Classifier of a Flax module, in evaluation mode.

    Args:
      module: of Linen; or of NNX, which holds its variables.
      variables: of a Linen module: {"params": ..., "batch_stats": ...}.
      mean, std: of each channel, that the module's images are normalised with; 0 and 1 where it
        does that itself.
      num_classes: length of a row of logits; None: seen at `image_size`.
      image_size: the side of the images it takes; None: any.
      logits, features: which part of an output that is a tuple or dict they are: an index or a key.
        Without `features` the model has none.
      mode: arguments of the call that mean evaluation; None: those of EVALUATION that it has. An
        NNX module's own `module.eval()` is called as well, on a copy.
      name: how records and messages call it; "": the module's class.
    """
    arch = type(module).__name__
    is_linen = isinstance(module, nn.Module)
    require(
        is_linen or isinstance(module, nnx.Module),
        f"a {arch} is no Flax module of Linen or NNX: torch modules go to models.from_torch, "
        "functions to models.from_function",
    )
    require(
        is_linen == (variables is not None),
        f"{arch} is a module of {'Linen' if is_linen else 'NNX'}: "
        + ("give its variables too" if is_linen else "it holds its variables, give none"),
    )
    require(
        num_classes is not None or image_size is not None,
        f"give num_classes, or the image_size that the outputs of {arch} are seen at",
    )
    for what, value in (("num_classes", num_classes), ("image_size", image_size)):
        if value is not None:
            check_count(what, value)
    mean, std = (tuple(map(float, values)) for values in (mean, std))
    require(len(mean) == len(std) and min(std) > 0, f"mean = {mean} and std = {std}: a deviation "
            "above 0 for each channel")  # fmt: skip
    if mode is None:
        asked = inspect.signature(type(module).__call__).parameters
        mode = {key: value for key, value in EVALUATION.items() if key in asked}
    mode = tuple(sorted(mode.items()))
    call, params = (LinenCall(module, mode), variables) if is_linen else _split(module, mode)
    forward = FlaxForward(
        call, mean, std, logits, features, num_classes, image_size, arch, name or arch
    )
    if image_size is not None:
        images = jax.ShapeDtypeStruct((2, image_size, image_size, len(mean)), "float32")
        num_classes = jax.eval_shape(forward, params, images)[0].shape[1]
        forward = dataclasses.replace(forward, num_classes=num_classes)
    told = [f"{key}={value}" for key, value in mode] + ["module.eval()"] * (not is_linen)
    return Classifier(
        params,
        forward,
        num_classes,
        has_features=features is not None,
        image_size=image_size,
        name=name or arch,
        note=f"{arch} runs in Flax, in evaluation mode: {', '.join(told) or 'nothing to set'}",
    )


def _split(module, mode):
    """(NnxCall, arrays) of a copy of an NNX module in evaluation mode."""
    module = nnx.clone(module)
    module.eval()
    graph, state = nnx.split(module)
    leaves, structure = jax.tree.flatten(state)
    keys = tuple(
        str(jax.random.key_impl(x)) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else None
        for x in leaves
    )
    arrays = [
        leaf if kind is None else jax.random.key_data(leaf)
        for leaf, kind in zip(leaves, keys, strict=True)
    ]
    return NnxCall(graph, structure, keys, mode), arrays
