"""Weights in files without code: .npz and .safetensors."""

import numpy as np

from advspur._checks import InputError, require

MAX_RATIO = 4  # of unpacked to packed size; weights hardly compress


def read_npz(path, entries):
    """{name: array} of an .npz file with these zip entries."""
    packed, unpacked = (sum(getattr(e, k) for e in entries) for k in ("compress_size", "file_size"))
    require(
        unpacked <= MAX_RATIO * packed + 2**20,
        f"it unpacks to {unpacked:,} bytes, over {MAX_RATIO} times its size: weights do not",
    )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, the decompressors and numpy's headers raise many kinds
        raise InputError(f"its arrays are damaged: {type(error).__name__}: {error}") from error


def read_safetensors(path):
    """{name: array} of a .safetensors file."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # its own kind, and AttributeError for dtypes numpy lacks
        raise InputError(f"its safetensors are damaged: {type(error).__name__}: {error}") from error


def printable(name):
    """A name of an untrusted file, without control characters and cut to a readable length."""
    return ascii(name)[1:-1][:100]
