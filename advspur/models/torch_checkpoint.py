"""Read checkpoints of torch without torch, and without executing anything in them.

Reads both containers of torch.save, the zip file and the stream of torch before 1.6, .safetensors
and .npz. Tensors are NumPy views of the mapped file, so only what is used takes memory. Names
beyond the few that checkpoints need stay inert (`advspur._inert_pickle`) and are reported.
"""

import math
import mmap
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401
import numpy as np

from advspur._checks import InputError, first_line, require
from advspur._inert_pickle import Call, Global, read_pickle

LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # a pickle of one number
STORAGES = {  # torch's storage -> NumPy's dtype; ml_dtypes registers bfloat16
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
DTYPES = {*STORAGES.values(), "uint16", "uint32", "uint64"}
MAX_RATIO = 4  # unpacked to packed size of an .npz file; weights hardly compress
TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
KNOWN = {
    Global("collections", "OrderedDict"),
    *(Global("torch._utils", name) for name in TENSORS + PARAMETERS),
    *(Global(module, name) for module in ("torch", "torch.cuda") for name in STORAGES),
    *(Global("torch.storage", name) for name in ("UntypedStorage", "TypedStorage")),
    *(Global("torch", name) for name in (*DTYPES, "Size", "device")),
}


class Storage(NamedTuple):
    """The data of tensors, as one flat array. Only the file makes one, not its pickle."""

    data: np.ndarray


class Checkpoint(NamedTuple):
    """The content of a file."""

    content: object  # dicts, lists, numbers, strings; tensors as read-only NumPy arrays
    container: str  # "zip", "legacy stream", "safetensors" or "npz"
    inert: tuple  # "module.name" of what its pickle names that was neither imported nor called


def read_checkpoint(path):
    """Read the Checkpoint in a file; InputError if it is damaged, hostile or something else."""
    path = Path(path)
    require(path.is_file(), f"no checkpoint file {path}")
    size = path.stat().st_size
    require(size > 0, f"{path} is empty: the download failed")
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _read(path, data)
    except InputError as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error


def _read(path, data):
    start = data[:512].lstrip().lower()
    require(
        not start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")),
        "it is a web page, not a checkpoint: the host asked for a login, or the file has moved",
    )
    require(
        not start.startswith(b"version https://git-lfs"),
        "it is a git-lfs pointer, not the file itself: run 'git lfs pull'",
    )
    if data[:4] == b"PK\x03\x04":
        return _read_zip(path, data)
    if data[: len(LEGACY_MAGIC)] == LEGACY_MAGIC:
        return _read_legacy(data)
    if data[8:9] == b"{":
        return Checkpoint(read_safetensors(path), "safetensors", ())
    raise InputError(
        "it is neither a torch.save file (zip or older stream) nor .safetensors nor .npz, or its "
        "start is damaged"
    )


def _read_zip(path, data):
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, struct.error, ValueError, OSError, NotImplementedError) as error:
        raise InputError(f"its zip directory is damaged (truncated?): {error}") from error
    names = [entry.filename for entry in entries]
    require(len(set(names)) == len(names), "its zip directory names an entry twice")
    pickles = [name for name in names if name.split("/")[-1] == "data.pkl"]
    if not pickles and names and all(name.endswith(".npy") for name in names):
        return Checkpoint(_read_npz(path, entries), "npz", ())
    require(len(pickles) == 1, f"its zip directory has {len(pickles)} data.pkl; expected one")
    root, entries = pickles[0][: -len("data.pkl")], {entry.filename: entry for entry in entries}
    order = bytes(_entry(data, entries[f"{root}byteorder"])) if f"{root}byteorder" in names else b""
    storages = {}

    def storage(tag):
        key, dtype, count = _storage_tag(tag)
        entry = entries.get(f"{root}data/{key}")
        require(entry is not None, f"its tensor data {key!r} is missing")
        require(
            entry.file_size == count * dtype.itemsize,
            f"its tensor data {key!r} has {entry.file_size} bytes; expected {count} x "
            f"{dtype.itemsize}",
        )
        if key not in storages:
            storages[key] = _entry(data, entry)
        dtype = dtype.newbyteorder(">" if order == b"big" else "<")
        return Storage(np.frombuffer(storages[key], dtype))

    stream = BytesIO(_entry(data, entries[pickles[0]]))
    content, names = read_pickle(stream, construct=_construct, persistent=storage)
    return Checkpoint(content, "zip", _inert(names))


def _entry(data, entry):
    """The bytes of an uncompressed zip entry, in place, with its checksum verified."""
    require(
        entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1,
        f"its entry {entry.filename!r} is compressed or encrypted; torch.save writes neither",
    )
    header = data[entry.header_offset : entry.header_offset + 30]
    require(header[:4] == b"PK\x03\x04" and len(header) == 30, "its zip directory is damaged")
    start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    content = memoryview(data)[start : start + entry.file_size]
    require(
        len(content) == entry.file_size and zlib.crc32(content) == entry.CRC,
        f"its entry {entry.filename!r} is damaged: the checksum does not match",
    )
    return content


def _read_legacy(data):
    data.seek(len(LEGACY_MAGIC))
    version, _ = read_pickle(data)
    require(version == 1001, "its protocol is not 1001, the only one known")
    system, _ = read_pickle(data)
    little = not isinstance(system, dict) or system.get("little_endian", True)
    begin, kinds = data.tell(), {}

    def note(tag):
        key, dtype, count = _storage_tag(tag)
        kinds[key] = dtype, count

    # The pickle is read twice: the places of the tensor data follow it.
    read_pickle(data, persistent=note)
    keys, _ = read_pickle(data)
    are_names = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    require(are_names and set(keys) == set(kinds), "its list of tensor data is damaged")
    storages, offset = {}, data.tell()
    for key in keys:
        dtype, count = kinds[key]
        end = offset + 8 + count * dtype.itemsize
        require(end <= len(data), "it is truncated: tensor data are missing")
        require(
            struct.unpack("<q", data[offset : offset + 8])[0] == count,
            f"its tensor data {key!r} do not have the size that its pickle gives",
        )
        dtype = dtype.newbyteorder("<" if little else ">")
        storages[key] = np.frombuffer(data, dtype, count, offset + 8)
        offset = end

    def storage(tag):
        return Storage(storages[_storage_tag(tag)[0]])

    data.seek(begin)
    content, names = read_pickle(data, construct=_construct, persistent=storage)
    return Checkpoint(content, "legacy stream", _inert(names))


def _storage_tag(tag):
    """(key, dtype, number of elements) of a storage's persistent id."""
    require(
        isinstance(tag, tuple) and len(tag) in (5, 6) and tag[0] == "storage",
        "its pickle refers to data outside it",
    )
    _, kind, key, _, count, *view = tag
    require(view in ([], [None]), "its tensor data are views, as in torch before 0.4")
    name = kind.name if isinstance(kind, Global) else type(kind).__name__
    require(name in STORAGES, f"its tensors have storages of the unknown type {name}")
    is_valid = isinstance(count, int) and count >= 0 and isinstance(key, str)
    require(is_valid, "its tensor data have no valid size")
    return key, np.dtype(STORAGES[name]), count


def _construct(function, arguments):
    """The value of a call that a checkpoint may make; for any other, an inert Call."""
    name = function.name if isinstance(function, Global) and function in KNOWN else None
    if name in TENSORS:
        tensor = _tensor(*arguments)
        return Call(function, arguments) if tensor is None else tensor
    if name in PARAMETERS and isinstance(arguments[0], np.ndarray):
        return arguments[0]
    if name == "Size" and _are_sizes(arguments[0]):
        return tuple(arguments[0])
    are_short = len(arguments) <= 2 and all(isinstance(x, (str, int)) for x in arguments)
    if name == "device" and are_short:
        return ":".join(map(str, arguments))
    return Call(function, arguments)


def _are_sizes(values):
    is_list = isinstance(values, (tuple, list)) and len(values) <= 64
    return is_list and all(isinstance(x, int) and x >= 0 for x in values)


def _tensor(storage, offset, shape, strides, *rest):
    """A view of the storage; None for a view that repeats data, which weights never do."""
    require(isinstance(storage, Storage), "a tensor has no data")
    storage = storage.data
    if len(rest) > 2 and isinstance(rest[2], Global):  # _rebuild_tensor_v3 names the dtype itself
        require(rest[2].name in DTYPES, f"a tensor has the unknown dtype {rest[2].name}")
        storage = storage.view(np.dtype(rest[2].name))
    are_sizes = _are_sizes((offset,)) and _are_sizes(shape) and _are_sizes(strides)
    require(are_sizes and len(shape) == len(strides), "a tensor has no valid shape")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    require(last < len(storage), "a tensor reaches beyond its data")
    if math.prod(shape) > len(storage):
        return None
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _inert(names):
    return tuple(sorted(printable(f"{module}.{name}") for module, name in names - KNOWN))


def _read_npz(path, entries):
    """{name: array} of an .npz file with these zip entries."""
    packed, unpacked = (sum(getattr(e, k) for e in entries) for k in ("compress_size", "file_size"))
    require(
        unpacked <= MAX_RATIO * packed + 2**20,
        f"it unpacks to {unpacked:,} bytes, over {MAX_RATIO} times its size, which weights do not",
    )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, the decompressors and numpy's headers raise many kinds
        raise InputError(f"its arrays are damaged: {type(error).__name__}: {error}") from error


def read_safetensors(path):
    """{name: array} of a .safetensors file."""
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except Exception as error:  # its own kind, and AttributeError for dtypes numpy lacks
        raise InputError(f"its safetensors are damaged: {type(error).__name__}: {error}") from error


def printable(name):
    """Escape a name from an untrusted file and cut it to 100 characters."""
    return ascii(name)[1:-1][:100]
