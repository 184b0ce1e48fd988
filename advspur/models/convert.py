"""PyTorch ResNet weights to Flax variables; every name is used once or dropped by rule.

Reads the checkpoints of the `robustness` library and robust-models-transfer (DataParallel,
normaliser, a second copy of the network in the attacker) and torchvision's names, alone or under
one of WRAPPERS.
"""

import collections
import re
import warnings
from typing import NamedTuple

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from advspur._checks import InputError, first_line, require
from advspur._constants import IMAGENET9_MEAN, IMAGENET9_STD, IMAGENET_MEAN, IMAGENET_STD
from advspur.models.classifier import Classifier
from advspur.models.resnet import ARCHITECTURES, build_network, from_resnet, variable_shapes
from advspur.models.torch_checkpoint import Checkpoint, printable, read_checkpoint

# Keys under which training code saves the weights.
WRAPPERS = ("model", "state_dict", "net", "model_state_dict", "state_dict_ema")
ASSUMED, OTHER = "assumed: ImageNet's", "in the file, not ImageNet's"
PREFIXES = ("module.model.", "model.", "module.", "_orig_mod.", "")
LEAVES = {  # (collection, leaf) of Flax -> name of torch
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}


class Conversion(NamedTuple):
    """A converted checkpoint and where its parts came from."""

    classifier: Classifier
    arch: str  # key of `build_network`
    used: tuple  # names in the file that fill a leaf, in order
    dropped: tuple  # names dropped by rule (counters, constants, the attacker's copy)
    others: tuple  # keys beside the weights (epoch, optimizer, ...)
    normalization: str  # "in the file", "given", OTHER or ASSUMED
    container: str  # as in `Checkpoint`
    inert: tuple  # as in `Checkpoint`


def convert_torch_checkpoint(path, *, mean=None, std=None):
    """Convert a PyTorch checkpoint of a ResNet to a Classifier.

    Args:
      path: .ckpt, .pt or .pth file of torch.save, .safetensors or .npz.
      mean, std: normalisation of the three channels, in [0, 1] pixel units, if the file holds none;
        None: ImageNet's is assumed, with a warning.
    Raises: InputError for a file that is damaged or holds no such network.
    """
    return convert(path, mean=mean, std=std).classifier


def convert(path, *, mean=None, std=None, is_filled=True):
    """Return the Conversion of a checkpoint; unless `is_filled`, with shapes for weights."""
    require((mean is None) == (std is None), "mean and std go together")
    given = None if mean is None else _checked_normalization(mean, std)
    checkpoint = read_checkpoint(path)
    try:
        conversion = _convert(checkpoint, given, is_filled)
    except InputError as error:
        raise InputError(f"{path} cannot be converted: {first_line(error)}") from error
    if is_filled and conversion.normalization == ASSUMED:
        warn_of_assumed(path, conversion.classifier.num_classes)
    return conversion


def convert_state(state, *, mean, std):
    """Return the Conversion of a state dict {torch's name: array}."""
    given = _checked_normalization(mean, std)
    return _convert(Checkpoint(dict(state), "state dict", ()), given, True)


def warn_of_assumed(path, num_classes):
    """Warn that the normaliser, absent from a file, is assumed to be ImageNet's."""
    more = f"; models trained on ImageNet-9 have {IMAGENET9_MEAN}, {IMAGENET9_STD}"
    warnings.warn(
        f"{path} holds no normaliser: ImageNet's mean {IMAGENET_MEAN} and std {IMAGENET_STD} are "
        "assumed; for others, convert it with convert_checkpoint.py --mean=R,G,B --std=R,G,B"
        + (more if num_classes == 9 else ""),
        stacklevel=3,
    )


def _convert(checkpoint, given, is_filled):
    state, others = _state_dict(checkpoint.content)
    prefix = next((p for p in PREFIXES if f"{p}conv1.weight" in state), None)
    require(
        prefix is not None,
        f"it holds no ResNet: no 'conv1.weight' under the prefixes {PREFIXES}, but {_some(state)}",
    )
    outer = prefix.removesuffix("model.")
    network, rest = _split(state, prefix)
    copy, rest = _split(rest, f"{outer}attacker.model.")
    arch, stem, num_classes = recognize({name: value.shape for name, value in network.items()})
    flax_network = build_network(arch, num_classes, stem=stem)
    template = flax.traverse_util.flatten_dict(variable_shapes(flax_network))
    names = {path: torch_name(path) for path in template}
    _check_names(arch, outer, set(names.values()), network, copy, rest)
    for name, value in copy.items():
        require(
            np.array_equal(network.get(name), value),
            f"{outer}attacker.model.{name} differs from the network that it should be a copy of",
        )
    leaves = template
    if is_filled:
        leaves = {p: _leaf(names[p], network[names[p]], x.shape) for p, x in template.items()}
    in_file = _normalization(rest, outer)
    require(
        not (given and in_file) or given == in_file,
        f"its normaliser has mean and std {in_file}, which differ from those given",
    )
    imagenet, origin = (IMAGENET_MEAN, IMAGENET_STD), "given" if given else ASSUMED
    if in_file:
        origin = "in the file" if in_file == imagenet else OTHER
    mean, std = given or in_file or imagenet
    variables = flax.traverse_util.unflatten_dict(leaves)
    classifier = from_resnet(flax_network, variables, mean=mean, std=std)
    used = tuple(f"{prefix}{name}" for name in names.values())
    dropped = tuple(sorted(set(state) - set(used)))
    return Conversion(
        classifier, arch, used, dropped, others, origin, checkpoint.container, checkpoint.inert
    )


def _split(state, prefix):
    """Split a dict into the names with a prefix, without it, and the others."""
    inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return inside, {k: v for k, v in state.items() if not k.startswith(prefix)}


def _check_names(arch, outer, expected, network, copy, rest):
    """Raise InputError unless network and copy have the expected names, and nothing is left."""
    means = [name for name in expected if name.endswith("running_mean")]
    counters = {name.replace("running_mean", "num_batches_tracked") for name in means}
    missing, surplus = [], []
    copies = [(f"{outer}attacker.model.", copy)] if copy else []
    for prefix, state in [("", network), *copies]:
        names = set(state) - counters
        missing += [f"-{prefix}{name}" for name in sorted(expected - names)]
        surplus += [f"+{prefix}{name}" for name in sorted(names - expected)]
    constants = {*_constants(outer, "mean"), *_constants(outer, "std")}
    surplus += [f"+{name}" for name in sorted(set(rest) - constants)]
    require(
        not missing and not surplus,
        f"its names are not those of {arch}: {len(missing)} missing (-), {len(surplus)} surplus "
        f"(+): {' '.join(map(printable, missing[:8] + surplus[:8]))}",
    )


def recognize(shapes):
    """Infer (arch, stem, num_classes) of a torchvision ResNet from {name: shape}."""
    matches = (re.match(r"layer(\d)\.\d{1,3}\.conv1\.weight$", name) for name in shapes)
    blocks = collections.Counter(int(match[1]) for match in matches if match)
    sizes = tuple(blocks[stage] for stage in sorted(blocks))
    is_bottleneck = "layer1.0.conv3.weight" in shapes
    first, inner = shapes["conv1.weight"], shapes.get("layer1.0.conv1.weight", (0,) * 4)
    require(len(first) == len(inner) == 4, "its convolutions do not have four axes")
    side, width, inner = first[-1], first[0], inner[0]
    archs = [
        arch
        for arch, (*known, widening) in ARCHITECTURES.items()
        if known == [sizes, is_bottleneck, width] and inner == width * widening
    ]
    require(
        archs,
        f"no known architecture has {'bottleneck' if is_bottleneck else 'basic'} blocks {sizes} "
        f"with widths {width} and {inner}; known are {', '.join(ARCHITECTURES)}",
    )
    stem = {7: "imagenet", 3: "cifar"}.get(side)
    require(stem is not None, f"its first convolution is {side} x {side}; known are 7 and 3")
    head = shapes.get("fc.weight", ())
    require(len(head) == 2, "-fc.weight (it has no last linear layer)")
    return archs[0], stem, head[0]


def torch_name(path):
    """Return torchvision's name of the leaf (collection, module, leaf) of a `ResNet`.

    >>> torch_name(("batch_stats", "layer2_0_downsample_bn", "var"))
    'layer2.0.downsample.1.running_var'
    """
    collection, module, leaf = path
    module = re.sub(r"^(layer\d)_(\d+)_", r"\1.\2.", module)
    for ours, theirs in (("downsample_conv", "downsample.0"), ("downsample_bn", "downsample.1")):
        module = module.replace(ours, theirs)
    return f"{module}.{LEAVES[collection, leaf]}"


def _leaf(name, value, shape):
    """The float32 leaf of `shape` from a torch tensor: OIHW to HWIO, [out, in] to [in, out]."""
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(len(shape), (0,))
    expected = tuple(shape[order.index(axis)] for axis in range(len(shape)))
    require(value.shape == expected, f"{name} has shape {value.shape}; expected {expected}")
    is_float = value.dtype.name in ("float64", "float32", "float16", "bfloat16")
    require(is_float, f"{name} has dtype {value.dtype}; expected floats")
    value = np.ascontiguousarray(np.transpose(value, order), np.float32)
    require(bool(np.all(np.isfinite(value))), f"{name} contains NaN or infinity")
    require(not name.endswith("running_var") or value.min() >= 0, f"{name} has negative variances")
    return jnp.array(value)


def _state_dict(content):
    """(the dict of weights, keys beside it)."""
    require(isinstance(content, dict), f"it holds a {type(content).__name__}, not a state dict")
    require(content, "it holds an empty dict")
    dicts = [key for key in WRAPPERS if isinstance(content.get(key), dict)]
    filled = [k for k in dicts if any(isinstance(v, np.ndarray) for v in content[k].values())]
    filled = filled[:1] if filled[:2] == ["model", "state_dict"] else filled
    several = " and ".join(filled)
    require(len(filled) < 2, f"it holds several state dicts, {several}; save only one of them")
    key = next(iter(filled or dicts), None)
    state = content if key is None else content[key]
    require(state, "its state dict is empty")
    bad = [k for k, v in state.items() if not (isinstance(k, str) and isinstance(v, np.ndarray))]
    require(
        not bad,
        f"its state dict holds more than tensors: {_some(bad)}; weights inside a dict are read "
        f"from the keys {', '.join(WRAPPERS)}",
    )
    beside = [] if key is None else [k for k in content if k != key and isinstance(k, str)]
    return state, tuple(map(printable, beside))


def _constants(outer, what):
    return [f"{outer}{module}.new_{what}" for module in ("normalizer", "attacker.normalize")]


def _normalization(rest, outer):
    """(mean, std) in the file, or None; its two places must agree."""
    both = []
    for what in ("mean", "std"):
        values = [rest[name] for name in _constants(outer, what) if name in rest]
        require(all(x.size == 3 for x in values), "its normaliser does not have three channels")
        agree = all(np.array_equal(values[0], x) for x in values[1:])
        require(agree, "its normaliser and its attacker's differ")
        both += values[:1]
    require(len(both) != 1, "its normaliser lacks new_mean or new_std")
    return _checked_normalization(*both) if both else None


def _checked_normalization(mean, std):
    """(mean, std) as tuples of three numbers."""
    try:
        both = np.array([np.ravel(mean), np.ravel(std)], float)
    except (TypeError, ValueError):
        both = np.full((2, 3), np.nan)
    valid = both.shape == (2, 3) and np.all((both >= 0) & np.isfinite(both))
    mean, std = (np.ravel(values).tolist() for values in (mean, std))
    require(
        bool(valid) and both[0].max() <= 1 and both[1].min() > 0,
        f"the normaliser has mean {mean} and std {std}; expected three means from 0 to 1 and three "
        "deviations above 0, of pixels in [0, 1]",
    )
    # float32 stores 0.485 as 0.48500001; models of a suite should share one compilation.
    return tuple(tuple(float(f"{value:.6g}") for value in values) for values in both)


def _some(names):
    names = [printable(name) if isinstance(name, str) else type(name).__name__ for name in names]
    return ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")
