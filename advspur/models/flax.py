"""from_flax: models that are Flax modules, of Linen or NNX."""

import dataclasses
import inspect

import flax.linen as nn
from flax import nnx

from advspur._checks import require
from advspur.models.classifier import normalize
from advspur.models.function import ForeignForward, checked_channels, foreign_classifier, pick

# Arguments of a call that tell training from evaluation, as they are in evaluation.
EVALUATION = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}


@dataclasses.dataclass(frozen=True)
class FlaxForward(ForeignForward):
    """The forward of a model that is a Flax module with its normalisation."""

    module: object = dataclasses.field(repr=False)  # of Linen; of NNX, its graph
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
    """The Classifier of a Flax module, in evaluation mode.

    Args:
      module: of Linen; or of NNX, which holds its variables.
      variables: of a Linen module: {"params": ..., "batch_stats": ...}.
      mean, std: of each channel, that the module's images are normalised with; 0 and 1 where it
        does that itself.
      num_classes, image_size, class_names, name: as in `from_function`; without num_classes it is
        seen at `image_size`, without a name it is the module's class.
      logits, features: which part of an output that is a tuple or dict they are: an index or a key.
        Without `features` the model has none.
      mode: arguments of the call that mean evaluation; None: those of EVALUATION that it has. An
        NNX module's own `module.eval()` is called as well, on a copy.
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
    mean, std = checked_channels(mean, std)
    if mode is None:
        asked = inspect.signature(type(module).__call__).parameters
        mode = {key: value for key, value in EVALUATION.items() if key in asked}
    mode = tuple(sorted(mode.items()))
    told = [f"{key}={value}" for key, value in mode] + ["module.eval()"] * (not is_linen)
    if not is_linen:
        module = nnx.clone(module)
        module.eval()
        module, variables = nnx.split(module)
    about = num_classes, image_size, arch, name or arch
    forward = FlaxForward(*about, module, mean, std, logits, features, mode)
    return foreign_classifier(
        forward,
        variables,
        has_features=features is not None,
        class_names=class_names,
        note=f"{arch} runs in Flax, in evaluation mode: {', '.join(told) or 'nothing to set'}",
        channels=len(mean),
    )
