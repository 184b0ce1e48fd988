"""Seeded ResNet weights under torchvision's names, and images: made again where they are needed.

Names and shapes are written from torchvision's module definitions, not from the package under test.
"""

import zlib

import numpy as np

BLOCKS = {  # sizes, whether bottlenecks, width, widening
    "resnet18": ((2, 2, 2, 2), False, 64, 1),
    "resnet50": ((3, 4, 6, 3), True, 64, 1),
    "wide_resnet50_2": ((3, 4, 6, 3), True, 64, 2),
    "wide_resnet50_4": ((3, 4, 6, 3), True, 64, 4),
    "resnet_small": ((1, 1, 1), False, 16, 1),
}


def shapes(arch, num_classes=1000):
    """{name: shape} of the state dict of a torchvision ResNet."""
    sizes, is_bottleneck, before, widening = BLOCKS[arch]
    side = 3 if arch == "resnet_small" else 7
    found = {"conv1.weight": (before, 3, side, side)} | _norm("bn1", before)
    first = before
    for stage, size in enumerate(sizes):
        width = first * 2**stage
        inner, out = width * widening, width * (4 if is_bottleneck else 1)
        for block in range(size):
            name = f"layer{stage + 1}.{block}"
            if is_bottleneck:
                kernels = [(inner, before, 1, 1), (inner, inner, 3, 3), (out, inner, 1, 1)]
            else:
                kernels = [(width, before, 3, 3), (width, width, 3, 3)]
            for number, kernel in enumerate(kernels, 1):
                found[f"{name}.conv{number}.weight"] = kernel
                found |= _norm(f"{name}.bn{number}", kernel[0])
            if block == 0 and (stage > 0 or before != out):
                found[f"{name}.downsample.0.weight"] = (out, before, 1, 1)
                found |= _norm(f"{name}.downsample.1", out)
            before = out
    return found | {"fc.weight": (num_classes, before), "fc.bias": (num_classes,)}


def state_dict(arch, *, seed=0, num_classes=1000):
    """{name: array}: float32 weights that keep activations of order 1, int64 counters."""
    return {name: _leaf(name, shape, seed) for name, shape in shapes(arch, num_classes).items()}


def images(*, seed=0, size=72):
    """[2, size, size, 3] in [0, 1], with patches of exactly 0 and 1."""
    found = np.random.default_rng([seed, 1]).uniform(size=(2, size, size, 3)).astype(np.float32)
    found[0, :5, :5], found[1, -5:, -5:] = 0, 1
    return found


def positions(size, *, count=400):
    """`count` indices into a flat array of `size`."""
    return np.random.default_rng(size).integers(0, size, count)


def _norm(name, width):
    parts = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean")}
    return parts | {f"{name}.running_var": (width,), f"{name}.num_batches_tracked": ()}


def _leaf(name, shape, seed):
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    kind = name.split(".")[-1]
    if kind == "num_batches_tracked":
        return np.array(1000, np.int64)
    if kind == "running_var":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if kind in ("bias", "running_mean"):
        return rng.normal(0, 0.1, shape).astype(np.float32)
    if len(shape) == 1:
        return rng.uniform(0.3, 0.9, shape).astype(np.float32)
    fan_in = np.prod(shape[1:])
    return rng.normal(0, np.sqrt((2 if len(shape) == 4 else 1) / fan_in), shape).astype(np.float32)
