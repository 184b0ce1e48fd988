"""from_torch: any torch module as a model. torch is imported only where there is one."""

import contextlib
import dataclasses
import functools
import sys

import jax.numpy as jnp
import numpy as np

from advspur._checks import check_count, require
from advspur.models.function import (
    ForeignForward,
    checked_channels,
    checked_outputs,
    foreign_classifier,
    foreign_code,
)
from advspur.models.torch_calls import Network, call


@dataclasses.dataclass(frozen=True, repr=False)
class TorchForward(ForeignForward):
    """The forward of a model that is a torch module; equal to itself alone."""

    network: Network

    def outputs(self, params, images):
        """(logits, features or None); the parameters are torch's."""
        logits, *features = call(self.network, images.astype(jnp.float32))
        return logits, *(features or (None,))

    def __repr__(self):
        network = self.network
        mean, std = (values.flatten().tolist() for values in (network.mean, network.std))
        place = f"{'input' if network.is_input else 'output'} of {network.place}"
        about = f"{mean}, {std}, {self.image_size}, {place}, {network.logits!r}"
        return f"TorchForward({network.digest}, {about})"


def from_torch(
    module,
    *,
    mean=None,
    std=None,
    image_size=None,
    features=None,
    logits=None,
    class_names=(),
    name="",
):
    """The Classifier of a torch module, which it runs in torch, on the module's device.

    The module itself is used: it is set to evaluation mode, and its parameters get no gradients.
    Attacks ask it for one forward and one vector-Jacobian product a step.

    Args:
      module: [n, c, h, w] normalised images -> logits.
      mean, std: of each channel, that its images are normalised with (0 and 1 where it does that
        itself); None: of timm's configuration of the module.
      image_size: the side of its images; None: of that configuration.
      features: the name of a submodule whose output they are ([n, c, h, w] is averaged over space);
        None: the input of the linear layer that gives the logits; False: none.
      logits: where the output is a tuple or dict, the index or key of the logits.
      class_names, name: as in `from_function`; without a name it is the module's class.
    Raises: InputError where it is no torch module, lacks one of these facts, or fails on an image
      of its size.
    """
    torch = sys.modules.get("torch")
    kind = type(module).__name__
    require(
        torch is not None and isinstance(module, torch.nn.Module),
        f"a {kind} is no torch module: Flax modules go to models.from_flax, functions to "
        "models.from_function",
    )
    known = getattr(module, "pretrained_cfg", None) or {}
    mean, std = (known.get(k) if v is None else v for k, v in (("mean", mean), ("std", std)))
    require(
        mean is not None and std is not None,
        f"{kind} has no configuration of timm: give the mean=(R, G, B) and std=(R, G, B) that its "
        "images are normalised with (0 and 1 each if it does that itself)",
    )
    mean, std = checked_channels(mean, std)
    image_size = known.get("input_size", (None,))[-1] if image_size is None else image_size
    require(image_size is not None, f"{kind} has no configuration of timm: give its image_size")
    check_count("image_size", image_size)
    places = {str(tensor.device) for tensor in (*module.parameters(), *module.buffers())}
    require("meta" not in places, "the module is on torch's 'meta' device: it has no weights yet")
    require(len(places) <= 1, f"the module is on several devices: {', '.join(sorted(places))}")
    module.eval().requires_grad_(False)
    network = Network(module, mean, std, logits)
    size = (image_size, image_size, len(mean))
    about_features = ""
    if features is not False:
        network.place, network.layer, network.is_input = _feature_layer(network, features, size)
        if network.layer is None:
            about_features = ", without features: no linear layer gives its logits, name a "
            about_features += "submodule by features="
    _check(network, size, features)
    forward = TorchForward(network.widths[0], image_size, kind, name or kind, network)
    return foreign_classifier(
        forward,
        {},
        has_features=network.layer is not None,
        class_names=class_names,
        note=f"{kind} runs in torch on {network.device}, in evaluation mode{about_features}",
        channels=len(mean),
    )


def _check(network, size, features):
    """Check the outputs of a real call, and note their widths."""
    outputs = [o.float().cpu().numpy() if hasattr(o, "float") else o for o in _tried(network, size)]
    what = type(network.module).__name__
    what += f" at {features!r}" if isinstance(features, str) else ""
    checked_outputs(what, _noise(size), None, *outputs)
    network.widths = tuple(output.shape[1] for output in outputs)


def _feature_layer(network, name, size):
    """(name of a submodule, itself, whether its input is meant); (None, None, True): none."""
    import torch

    module = network.module
    if name is not None:
        layers = dict(module.named_modules())
        require(
            isinstance(name, str) and name in layers,
            f"features = {name!r}: {type(module).__name__} has no such submodule; its last are "
            f"{', '.join(list(layers)[-8:])}",
        )
        return name, layers[name], False
    seen = []
    with contextlib.ExitStack() as hooks:
        for place, layer in module.named_modules():
            if isinstance(layer, torch.nn.Linear):
                note = functools.partial(lambda *called: seen.append(called), place)
                hooks.enter_context(layer.register_forward_hook(note))
        (logits,) = _tried(network, size)
    for place, layer, _, result in reversed(seen):
        if result.shape == logits.shape and torch.equal(result, logits):
            return place, layer, True
    return None, None, True


def _tried(network, size):
    """The outputs for two images of `size`."""
    import torch

    what = f"{type(network.module).__name__} on {size[0]} x {size[1]} images"
    with torch.no_grad(), foreign_code(what):
        return network(network.images(_noise(size)))


def _noise(size):
    return np.random.default_rng(0).random((2, *size), np.float32)
