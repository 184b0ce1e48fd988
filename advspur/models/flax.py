"""from_flax: models from Flax modules, Linen or NNX."""

import dataclasses
import inspect

import flax.linen as nn
from flax import nnx

from advspur._checks import require
from advspur.models.classifier import normalize
from advspur.models.function import ForeignForward, checked_channels, foreign_classifier, pick

# Arguments of a call that choose between training and evaluation, with their evaluation values.
EVALUATION = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}


@dataclasses.dataclass(frozen=True)
class FlaxForward(ForeignForward):
    """The forward of a Flax module with its normalisation."""

    module: object = dataclasses.field(repr=False)  # a Linen module or the graph of an NNX one
    mean: tuple
    std: tuple
    logits: object
    features: object
    mode: tuple

    def outputs(self, params, images):
        """(logits, features or None)."""
        images, mode = normalize(images, self.mean, self.std), dict(self.mode)
        if isinstance(self.module, nn.Module):
            output = self.module.apply(params, images, **mode)
        else:
            output = nnx.merge(self.module, params)(images, **mode)
        logits, features = pick(self.what, output, self.logits, "logits"), None
        if self.features is not None:
            features = pick(self.what, output, self.features, "features")
        return logits, features


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
    class_names=(),
    name="",
):
    """Make a Classifier from a Flax module, in evaluation mode.

    Args:
      module: a Linen module, or an NNX one, which holds its variables.
      variables: for a Linen module: {"params": ..., "batch_stats": ...}.
      mean, std: normalisation of each channel of the module's images; 0 and 1 if the module does
        that itself.
      num_classes, image_size, class_names, name: as in `from_function`. The default num_classes is
        read from the outputs at `image_size`, the default name is the module's class.
      logits, features: their index or key in an output that is a tuple or dict. Without `features`
        the model has none.
      mode: arguments of the call that mean evaluation; None: those of EVALUATION that it takes. For
        an NNX module, `module.eval()` is called too, on a copy.
    """
    arch = type(module).__name__
    is_linen = isinstance(module, nn.Module)
    require(
        is_linen or isinstance(module, nnx.Module),
        f"a {arch} is not a Flax module: use models.from_torch for torch modules, "
        "models.from_function for functions",
    )
    require(
        is_linen == (variables is not None),
        f"{arch} is a Linen module: give its variables too"
        if is_linen
        else f"{arch} is an NNX module, which holds its variables: give none",
    )
    require(
        num_classes is not None or image_size is not None,
        f"give num_classes, or the image_size of {arch}, to read it from the outputs",
    )
    mean, std = checked_channels(mean, std)
    if mode is None:
        parameters = inspect.signature(type(module).__call__).parameters
        mode = {key: value for key, value in EVALUATION.items() if key in parameters}
    mode = tuple(sorted(mode.items()))
    settings = [f"{key}={value}" for key, value in mode] + ["module.eval()"] * (not is_linen)
    if not is_linen:
        module = nnx.clone(module)
        module.eval()
        module, variables = nnx.split(module)
    forward = FlaxForward(
        num_classes, image_size, arch, name or arch, module, mean, std, logits, features, mode
    )
    return foreign_classifier(
        forward,
        variables,
        has_features=features is not None,
        class_names=class_names,
        note=f"{arch} runs in Flax, in evaluation mode: {', '.join(settings) or 'nothing to set'}",
        channels=len(mean),
    )
