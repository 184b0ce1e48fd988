"""The reader of checkpoints: real files of torch, and files that try to break or abuse it."""

import functools
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from torch_files import Named, Storage, dumps, save, write_zip

from advspur import _inert_pickle
from advspur._checks import InputError
from advspur.models.convert import convert
from advspur.models.torch_checkpoint import read_checkpoint
from tests.refusals import refused

GOLDEN = Path(__file__).parent / "golden"
REAL = tuple(f"tensors_{how}.pt" for how in ("pickle", "dill", "pickle_legacy", "dill_legacy"))
BASE = np.arange(24, dtype=np.float32).reshape(4, 6)


@pytest.mark.parametrize("name", REAL)
def test_files_of_torch_are_read_whole(name):
    checkpoint = read_checkpoint(GOLDEN / name)
    assert checkpoint.container == ("legacy stream" if "legacy" in name else "zip")
    assert checkpoint.inert == ()
    found = checkpoint.content
    for key, expected in {
        "base": BASE,
        "row_of_the_same": BASE[1],
        "transposed": BASE.T,
        "strided": BASE[::2, 1::2],
        "parameter": BASE + 0.5,
        "scalar": np.float32(3.25),
        "empty": np.zeros((0, 3), np.float32),
        "flags": np.array([True, False]),
    }.items():
        np.testing.assert_array_equal(found[key], expected, strict=True)
    for kind in ("float64", "float16", "int64", "int32", "int16", "int8", "uint8"):
        np.testing.assert_array_equal(found[kind], BASE.astype(kind), strict=True)
    np.testing.assert_array_equal(found["bfloat16"], BASE.astype(ml_dtypes.bfloat16), strict=True)
    nested = {"size": (4, 6), "device": "cpu", "lists": [1, None, (2.5, "a")]}
    assert found["nested"] == nested
    assert found["base"].ctypes.data + 24 == found["row_of_the_same"].ctypes.data  # no copies
    with pytest.raises(ValueError, match="read-only"):
        found["base"][0] = 1


def test_safetensors_and_npz_are_read(tmp_path):
    from safetensors.numpy import save_file

    arrays = {"a": BASE, "b": BASE.astype(ml_dtypes.bfloat16), "n": np.array(3, np.int64)}
    save_file(arrays, tmp_path / "x.safetensors")
    np.savez_compressed(tmp_path / "x.npz", a=BASE)
    found = read_checkpoint(tmp_path / "x.safetensors")
    assert found.container == "safetensors"
    for name, value in arrays.items():
        np.testing.assert_array_equal(found.content[name], value, strict=True)
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "x.npz").content["a"], BASE)


def test_unknown_names_stay_inert_and_are_reported(tmp_path):
    content = {"w": BASE, "args": Named("argparse", "Namespace", ()), "f": Named("os", "system")}
    save(content, tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    assert found.inert == ("argparse.Namespace", "os.system")
    np.testing.assert_array_equal(found.content["w"], BASE)


# -- hostile and broken files: none executes anything, each gives one clear line --------------


def zipped(pickled, **options):
    return lambda path: write_zip(path, pickled, **options)


def written(content):
    return lambda path: path.write_bytes(content)


def tensor(*, kind=None, key="0", count=24, offset=0, shape=(4, 6), strides=(6, 1), nested=False):
    """A file of one tensor, good but for what is given; `nested`: its data are a tensor."""
    storage = Storage("storage", kind or Named("torch", "FloatStorage"), key, "cpu", count)
    arguments = (storage, offset, shape, strides, False, Named("collections", "OrderedDict", ()))
    if nested:
        arguments = (Named("torch._utils", "_rebuild_tensor_v2", arguments), *arguments[1:])
    pickled = dumps({"w": Named("torch._utils", "_rebuild_tensor_v2", arguments)})
    return zipped(pickled, storages={"0": BASE})


def entries(*named, how=zipfile.ZIP_STORED):
    def write(path):
        with zipfile.ZipFile(path, "w", how) as file:
            for name, content in named:
                file.writestr(name, content)

    return write


packed = functools.partial(entries, how=zipfile.ZIP_DEFLATED)


GOOD = dumps({"a": 1})
DEVICE, DOUBLED = b"\x80\x02ctorch\ndevice\n", b"q\x00h\x00h\x00\x86"
DEEP = b"\x80\x02" + b")" + b"\x85" * 100_000 + b"q\x00"
OBJECTS = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}".ljust(118)
OBJECTS = b"\x93NUMPY\x01\x00v\x00" + OBJECTS + b"N."
FLOAT8 = b'{"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}'
FLOAT8 = struct.pack("<Q", len(FLOAT8)) + FLOAT8 + b"\0"
# A list of 10,000 that a call is made of 100 times.
AGAIN = b"K\x01" * 10_000 + b"eq\x00%sq\x010" + b"h\x01h\x00\x85R0" * 100
AGAIN = b"\x80\x02](" + AGAIN + b"h\x00."
LEGACY = (GOLDEN / "tensors_pickle_legacy.pt").read_bytes()
MARK = "touch {}"  # the file that an executed gadget would leave
GADGETS = {
    "os.system": ("os", "system", MARK),
    "subprocess.Popen": ("subprocess", "Popen", MARK),
    "builtins.eval": ("builtins", "eval", f"__import__('os').system('{MARK}')"),
    "builtins.getattr": ("builtins", "getattr", Named("os", "x"), "system"),
    "pickle.loads": ("pickle", "loads", b"cos\nsystem\n(S'true'\ntR."),
    "dill": ("dill._dill", "_load_type", Named("dill._dill", "_create_code", (Named("os", "x"),))),
    "shadowed name": ("torch._utils", "_rebuild_tensor_v2.__globals__", "x"),
    "copyreg": ("copyreg", "_reconstructor", Named("os", "x"), None, None),
}
BROKEN = {
    "zero bytes": (written(b""), "is empty"),
    "web page": (written(b"\n<!DOCTYPE html><html>Sign in</html>"), "web page"),
    "git-lfs pointer": (written(b"version https://git-lfs.github.com/spec/v1\n"), "git-lfs"),
    "wrong magic": (written(b"\x89PNG\r\n\x1a\n" + bytes(100)), "neither a torch.save file"),
    "plain pickle": (written(pickle.dumps({"a": 1})), "neither a torch.save file"),
    "zip of something else": (entries(("readme.txt", b"hello")), "0 data.pkl"),
    "two pickles": (entries(("a/data.pkl", GOOD), ("b/data.pkl", GOOD)), "2 data.pkl"),
    "path tricks": (entries(("../../data.pkl", b"c../..\nx\n.")), "holds a Global"),
    "missing storage": (tensor(key="../../../etc/passwd"), "tensor data '../../../etc/passwd'"),
    "key of no string": (tensor(key=7), "no valid size"),
    "unknown storage": (tensor(kind=Named("os", "system")), "storages of the unknown type system"),
    "huge storage": (tensor(count=2**60), "has 96 bytes; expected"),
    "negative storage": (tensor(count=-1), "no valid size"),
    "huge shape": (tensor(shape=(2**40, 2**20)), "beyond its data"),
    "overlapping strides": (tensor(shape=(4, 6, 9), strides=(1, 1, 1)), "more than tensors"),
    "repeated data": (tensor(shape=(2**40, 1), strides=(0, 1)), "more than tensors"),
    "negative offset": (tensor(offset=-3), "no valid shape"),
    "offset too far": (tensor(offset=8), "beyond its data"),
    "negative stride": (tensor(strides=(-6, 1)), "no valid shape"),
    "uneven strides": (tensor(strides=(1,)), "no valid shape"),
    "shape of strings": (tensor(shape=("4", "6")), "no valid shape"),
    "compressed bomb": (packed(("a/data.pkl", GOOD), ("a/data/0", bytes(10**7))), "is compressed"),
    "npz bomb": (packed(("a.npy", bytes(10**7))), "unpacks to"),
    "npz of objects": (entries(("a.npy", OBJECTS)), "allow_pickle"),
    "endless pickle": (zipped(b"\x80\x02" + b"]0" * 130_000), "more than 250,000 opcodes"),
    "no end": (zipped(b"\x80\x02]"), "damaged"),
    "empty stack": (zipped(b"\x80\x02."), "damaged"),
    "unknown opcode": (zipped(b"\x80\x02\xff."), "damaged"),
    "needless opcode": (zipped(b"\x80\x02K\x012."), "the opcode DUP, which no checkpoint needs"),
    "missing memo": (zipped(b"\x80\x02h\x07."), "damaged"),
    "mark without end": (zipped(b"\x80\x02t."), "damaged"),
    "huge string": (zipped(b"\x80\x04\x8d" + struct.pack("<Q", 2**50) + b"abc."), "damaged"),
    "deep tuple as key": (zipped(b"\x80\x02}" + DEEP[2:] + b"Ns."), "holds an empty dict"),
    "list as key": (zipped(b"\x80\x02}]Ns."), "holds an empty dict"),
    "sets items of a number": (
        zipped(b"\x80\x02K\x01K\x02K\x03s."),
        "sets items outside a dictionary",
    ),
    "strange persistent id": (zipped(b"\x80\x02K\x01Q."), "outside it"),
    "deep device": (zipped(DEVICE + b"(" * 5000 + b"l" * 5000 + b"\x85R."), "holds a Call"),
    "doubled device": (zipped(DEVICE + b")" + DOUBLED * 60 + b"\x85R."), "holds a Call"),
    "sizes again and again": (zipped(AGAIN % b"ctorch\nSize\n"), "holds a list"),
    "pairs again and again": (
        zipped(AGAIN.replace(b"K\x01", b"K\x01K\x02\x86") % b"ccollections\nOrderedDict\n"),
        "more than 250,000 opcodes",
    ),
    "huge number": (
        zipped(b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b"."),
        "more than 64 bits",
    ),
    "tensor of a tensor": (tensor(nested=True), "a tensor has no data"),
    "legacy list of deep keys": (
        written(LEGACY[: LEGACY.index(b"]q\x00(X")] + b"]" + DEEP[2:] + b"a."),
        "damaged",
    ),
    "legacy protocol": (written(LEGACY[:15] + b"\x80\x02K\x05." + LEGACY[15:]), "is not 1001"),
    "npz header": (entries(("a.npy", b"\x93NUMPY\x01\x00\x04\x00{'a\n")), "arrays are damaged"),
    "npz by LZMA": (packed(("a.npy", b"\x93NUMPY"), how=zipfile.ZIP_LZMA), "arrays are damaged"),
    "safetensors of a strange dtype": (written(FLOAT8), "safetensors are damaged|holds no"),
    "safetensors header": (written(struct.pack("<Q", 2**40) + b"{" + bytes(50)), "safetensors"),
}


def one_line(path, read=read_checkpoint, words=""):
    refused(f"(?=.*{path})(?=.*({words})).{{,399}}$", read, path)


@pytest.mark.parametrize("name", GADGETS)
def test_gadgets_are_not_executed(name, tmp_path, monkeypatch):
    """Everything that could run is out of reach; what the pickle wanted is reported."""
    for module in ("os.system", "subprocess.Popen.__init__", "builtins.exec", "builtins.eval"):
        monkeypatch.setattr(module, lambda *a, **k: pytest.fail("executed"))
    modules = set(sys.modules)
    path = tmp_path / "x.pt"
    module, function, *arguments = GADGETS[name]
    zipped(dumps({"model": Named(module, function, tuple(arguments))}))(path)
    found = read_checkpoint(path)
    assert found.inert
    assert set(sys.modules) == modules
    assert sorted(os.listdir(tmp_path)) == ["x.pt"]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setattr(_inert_pickle, "MAX_OPCODES", 250_000)
    make, words = BROKEN[name]
    make(tmp_path / "x.pt")
    one_line(tmp_path / "x.pt", convert, words)  # what reads, as "path tricks", holds no network


def test_cycles_end(tmp_path):
    """A list that holds itself, and a tuple within: read, and refused as no state dict."""
    write_zip(tmp_path / "x.pt", b"\x80\x02]q\x00h\x00\x85a.")
    content = read_checkpoint(tmp_path / "x.pt").content
    assert content[0][0] is content


@pytest.mark.parametrize("name", REAL)
def test_truncated_files_are_refused(name, tmp_path):
    content = (GOLDEN / name).read_bytes()
    for tenths in range(1, 10):
        (tmp_path / "x.pt").write_bytes(content[: len(content) * tenths // 10])
        one_line(tmp_path / "x.pt")


@pytest.mark.parametrize("name", REAL[::2])
def test_any_flipped_byte_is_refused_or_leaves_data(name, tmp_path):
    """Random damage ends in an InputError, or in content, never in a different error."""
    content = bytearray((GOLDEN / name).read_bytes())
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "x.pt", 0
    for position in rng.integers(0, len(content), 200):
        damaged = content.copy()
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except InputError:
            refused += 1
    assert refused > 50


def test_a_damaged_tensor_is_noticed_and_an_absent_file_named(tmp_path):
    path = tmp_path / "x.pt"
    save({"w": BASE}, path)
    content = path.read_bytes()
    where = content.index(BASE.tobytes())
    path.write_bytes(content[: where + 5] + b"\xff" + content[where + 6 :])
    one_line(path, words="checksum does not match")
    one_line(tmp_path / "absent.pt", words="no checkpoint file")
