"""PyTorch ResNet weights to Flax variables, strictly: every name is used once, or dropped by rule.

Understands the checkpoints of the `robustness` library and robust-models-transfer (DataParallel,
normaliser, a second copy of the network in the attacker), torchvision's names, and one of WRAPPERS
around either.
"""

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
    """A converted checkpoint and the account of it."""

    classifier: Classifier
    arch: str  # key of `build_network`
    used: tuple  # names of the source that fill a leaf, in order
    dropped: tuple  # names that are left out by rule (counters, constants, the attacker's copy)
    others: tuple  # keys beside the weights (epoch, optimizer, ...)
    normalization: str  # "in the file", "given", or one of OTHER and ASSUMED
    container: str  # of the file, and its inert names; see `Checkpoint`
    inert: tuple


def convert_torch_checkpoint(path, *, mean=None, std=None):
    """The Classifier of a PyTorch checkpoint of a ResNet; see `convert`.

    Args:
      path: .ckpt, .pt or .pth file of torch.save, .safetensors or .npz.
      mean, std: of the three channels in training, if the file does not hold them, in [0, 1] pixel
        units; None: ImageNet's are assumed, with a warning.
    Raises: InputError, in one line, for a file or network that is not what it should be.
    """
    return convert(path, mean=mean, std=std).classifier


def convert(path, *, mean=None, std=None, is_filled=True):
    """The Conversion of a checkpoint; unless `is_filled`, with shapes in place of weights."""
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
    """The Conversion of {torch's name: array}, as `convert` makes it of a file."""
    given = _checked_normalization(mean, std)
    return _convert(Checkpoint(dict(state), "state dict", ()), given, True)


def warn_of_assumed(path, num_classes):
    """Warn that a model holds no normaliser, so that ImageNet's is assumed."""
    more = f"; models trained on ImageNet-9 have {IMAGENET9_MEAN}, {IMAGENET9_STD}"
    warnings.warn(
        f"{path} holds no normaliser: ImageNet's mean {IMAGENET_MEAN} and std {IMAGENET_STD} are "
        "assumed; convert it with convert_checkpoint.py --mean=R,G,B --std=R,G,B to give others"
        + (more if num_classes == 9 else ""),
        stacklevel=3,
    )


def _convert(checkpoint, given, is_filled):
    state, others = _state_dict(checkpoint.content)
    prefix = next((p for p in PREFIXES if f"{p}conv1.weight" in state), None)
    require(
        prefix is not None,
        f"it holds no ResNet: no 'conv1.weight' under the prefixes {PREFIXES}; it has "
        f"{_some(state)}",
    )
    outer = prefix.removesuffix("model.")
    network, around = _split(state, prefix)
    copied, around = _split(around, f"{outer}attacker.model.")
    arch, stem, num_classes = recognize({name: value.shape for name, value in network.items()})
    flax_network = build_network(arch, num_classes, stem=stem)
    template = flax.traverse_util.flatten_dict(variable_shapes(flax_network))
    names = {path: torch_name(path) for path in template}
    _check_names(arch, outer, set(names.values()), network, copied, around)
    for name, value in copied.items():
        require(
            np.array_equal(network.get(name), value),
            f"{outer}attacker.model.{name} differs from the network that it should be a copy of",
        )
    leaves = dict(template)
    for path, leaf in template.items() if is_filled else ():
        leaves[path] = jnp.array(_leaf(names[path], network[names[path]], leaf.shape))
    found = _normalization(around, outer)
    require(
        not (given and found) or given == found,
        f"its normaliser has mean and std {found}, which differ from those given",
    )
    imagenet, told = (IMAGENET_MEAN, IMAGENET_STD), "given" if given else ASSUMED
    if found:
        told = "in the file" if found == imagenet else OTHER
    mean, std = given or found or imagenet
    variables = flax.traverse_util.unflatten_dict(leaves)
    classifier = from_resnet(flax_network, variables, mean=mean, std=std)
    used = tuple(f"{prefix}{name}" for name in names.values())
    dropped = tuple(sorted(set(state) - set(used)))
    return Conversion(
        classifier, arch, used, dropped, others, told, checkpoint.container, checkpoint.inert
    )


def _split(state, prefix):
    """({rest of a name: value} of the names with a prefix, the others)."""
    inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return inside, {k: v for k, v in state.items() if not k.startswith(prefix)}


def _check_names(arch, outer, expected, network, copied, around):
    """Raise InputError unless network and copy have the expected names, and nothing is around."""
    means = [name for name in expected if name.endswith("running_mean")]
    counters = {name.replace("running_mean", "num_batches_tracked") for name in means}
    missing, surplus = [], []
    copies = [(f"{outer}attacker.model.", copied)] if copied else []
    for prefix, names in [("", network), *copies]:
        found = set(names) - counters
        missing += [f"-{prefix}{name}" for name in sorted(expected - found)]
        surplus += [f"+{prefix}{name}" for name in sorted(found - expected)]
    constants = {*_constants(outer, "mean"), *_constants(outer, "std")}
    surplus += [f"+{name}" for name in sorted(set(around) - constants)]
    require(
        not missing and not surplus,
        f"its names are not those of {arch}: {len(missing)} missing (-), {len(surplus)} surplus "
        f"(+): {' '.join(map(printable, missing[:8] + surplus[:8]))}",
    )


def recognize(shapes):
    """(arch, stem, num_classes) of a torchvision ResNet from the shapes of its tensors."""
    blocks = {}
    for name in shapes:
        if found := re.match(r"layer(\d)\.(\d{1,3})\.conv1\.weight$", name):
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
    sizes = tuple(len(blocks[stage]) for stage in sorted(blocks))
    is_bottleneck = "layer1.0.conv3.weight" in shapes
    first, inner = shapes["conv1.weight"], shapes.get("layer1.0.conv1.weight", (0,) * 4)
    require(len(first) == len(inner) == 4, "its convolutions have no four axes")
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
    """torchvision's name of a leaf of `ResNet`: (collection, module, leaf) -> "layer1.0.bn1.bias".

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
    wanted = tuple(shape[order.index(axis)] for axis in range(len(shape)))
    require(value.shape == wanted, f"{name} has shape {value.shape}; expected {wanted}")
    is_float = value.dtype.name in ("float64", "float32", "float16", "bfloat16")
    require(is_float, f"{name} has dtype {value.dtype}; expected floats")
    value = np.ascontiguousarray(np.transpose(value, order), np.float32)
    require(bool(np.all(np.isfinite(value))), f"{name} contains NaN or infinity")
    require(not name.endswith("running_var") or value.min() >= 0, f"{name} has negative variances")
    return value


def _state_dict(content):
    """(the dict of weights, names of what is beside it)."""
    require(isinstance(content, dict), f"it holds a {type(content).__name__}, not a state dict")
    require(content, "it holds an empty dict")
    dicts = [key for key in WRAPPERS if isinstance(content.get(key), dict)]
    filled = [k for k in dicts if any(isinstance(v, np.ndarray) for v in content[k].values())]
    filled = filled[:1] if filled[:2] == ["model", "state_dict"] else filled
    several = " and ".join(filled)
    require(len(filled) < 2, f"it holds several state dicts, {several}: save only the one you mean")
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


def _normalization(around, outer):
    """(mean, std) of the file, or None; its two places must agree."""
    both = []
    for what in ("mean", "std"):
        found = [around[name] for name in _constants(outer, what) if name in around]
        require(all(x.size == 3 for x in found), "its normaliser has no three channels")
        agree = all(np.array_equal(found[0], x) for x in found[1:])
        require(agree, "its normaliser and its attacker's differ")
        both += found[:1]
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
        f"the normaliser has mean {mean} and std {std}; expected three numbers "
        "each, of pixels in [0, 1]: means from 0 to 1, deviations above 0",
    )
    # float32 stores 0.485 as 0.48500001; models of one suite should share one compilation.
    return tuple(tuple(float(f"{value:.6g}") for value in values) for values in both)


def _some(names):
    names = [printable(name) if isinstance(name, str) else type(name).__name__ for name in names]
    return ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")
