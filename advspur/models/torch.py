"""from_torch: models from torch modules. Only a call with a torch module imports torch."""

import contextlib
import dataclasses
import functools
import sys

import jax.numpy as jnp
import numpy as np

from advspur._checks import check_count, require
from advspur.models import function
from advspur.models.torch_calls import Network, call


@dataclasses.dataclass(frozen=True, repr=False)
class TorchForward(function.ForeignForward):
    """The forward of a torch module; equal only to itself."""

    network: Network

    def outputs(self, params, images):
        """(logits, features or None); torch holds the parameters."""
        logits, *features = call(self.network, images.astype(jnp.float32))
        return logits, *(features or (None,))

    def __repr__(self):
        network = self.network
        mean, std = (values.flatten().tolist() for values in (network.mean, network.std))
        place = f"{'input' if network.is_input else 'output'} of {network.place}"
        options = f"{mean}, {std}, {self.image_size}, {place}, {network.logits!r}"
        return f"TorchForward({network.digest}, {options})"


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
    """Make a Classifier from a torch module, which runs in torch on its device.

    The module is used, not copied: it is set to evaluation mode, and its parameters get no
    gradients. A step of an attack takes one forward and one vector-Jacobian product.

    Args:
      module: [n, c, h, w] normalised images -> logits.
      mean, std: normalisation of each channel (0 and 1 if the module does that itself); None: from
        timm's configuration of the module.
      image_size: side of its images; None: from that configuration.
      features: the name of a submodule whose output they are ([n, c, h, w] is averaged over space);
        None: the input of the linear layer that gives the logits; False: none.
      logits: index or key of the logits in an output that is a tuple or dict.
      class_names, name: as in `from_function`; the default name is the module's class.
    Raises: InputError if it is not a torch module, lacks one of these values, or fails on images of
      this size.
    """
    torch = sys.modules.get("torch")
    kind = type(module).__name__
    require(
        torch is not None and isinstance(module, torch.nn.Module),
        f"a {kind} is not a torch module: use models.from_flax for Flax modules, "
        "models.from_function for functions",
    )
    known = getattr(module, "pretrained_cfg", None) or {}
    mean, std = (known.get(k) if v is None else v for k, v in (("mean", mean), ("std", std)))
    require(
        mean is not None and std is not None,
        f"{kind} has no timm configuration: give the mean=(R, G, B) and std=(R, G, B) that its "
        "images are normalised with (0 and 1 each if it does that itself)",
    )
    mean, std = function.checked_channels(mean, std)
    image_size = known.get("input_size", (None,))[-1] if image_size is None else image_size
    require(image_size is not None, f"{kind} has no timm configuration: give its image_size")
    check_count("image_size", image_size)
    places = {str(tensor.device) for tensor in (*module.parameters(), *module.buffers())}
    require("meta" not in places, "the module is on torch's 'meta' device: it has no weights yet")
    require(len(places) <= 1, f"the module is on several devices: {', '.join(sorted(places))}")
    module.eval().requires_grad_(False)
    network = Network(module, mean, std, logits)
    size = (image_size, image_size, len(mean))
    note = f"{kind} runs in torch on {network.device}, in evaluation mode"
    if features is not False:
        network.place, network.layer, network.is_input = _feature_layer(network, features, size)
        if network.layer is None:
            note += ", without features: no linear layer gives its logits, name a submodule by "
            note += "features="
    _check(network, size, features)
    forward = TorchForward(network.widths[0], image_size, kind, name or kind, network)
    return function.foreign_classifier(
        forward,
        {},
        has_features=network.layer is not None,
        class_names=class_names,
        note=note,
        channels=len(mean),
    )


def _check(network, size, features):
    """Check the outputs of a real call and set `network.widths`."""
    outputs = [o.float().cpu().numpy() if hasattr(o, "float") else o for o in _try(network, size)]
    what = type(network.module).__name__
    what += f" at {features!r}" if isinstance(features, str) else ""
    function.checked_outputs(what, _noise(size), None, *outputs)
    network.widths = tuple(output.shape[1] for output in outputs)


def _feature_layer(network, name, size):
    """(name of the features' layer, the layer, whether they are its input), or None, None, True."""
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
    calls = []
    with contextlib.ExitStack() as hooks:
        for place, layer in module.named_modules():
            if isinstance(layer, torch.nn.Linear):
                note = functools.partial(lambda *call: calls.append(call), place)
                hooks.enter_context(layer.register_forward_hook(note))
        (logits,) = _try(network, size)
    for place, layer, _, result in reversed(calls):
        if result.shape == logits.shape and torch.equal(result, logits):
            return place, layer, True
    return None, None, True


def _try(network, size):
    """The outputs for two images of `size`."""
    import torch

    what = f"{type(network.module).__name__} on {size[0]} x {size[1]} images"
    with torch.no_grad(), function.foreign_code(what):
        return network(network.images(_noise(size)))


def _noise(size):
    return np.random.default_rng(0).random((2, *size), np.float32)
