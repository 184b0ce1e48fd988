"""Writes what torch.save writes, without torch: the zip container around a given pickle."""

import io
import pickle
import zipfile

import numpy as np

KINDS = {"f4": "FloatStorage", "i8": "LongStorage", "f8": "DoubleStorage"}


class Named:
    """Pickled as the global `module.name`, called with `arguments` if there are any."""

    def __init__(self, module, name, arguments=None):
        self.module, self.name, self.arguments = module, name, arguments


class Storage:
    """Pickled as the persistent id `tag`."""

    def __init__(self, *tag):
        self.tag = tag


class Pickler(pickle._Pickler):  # the Python one: its dispatch can be taught
    def save(self, item, save_persistent_id=True):
        if isinstance(item, Named):
            if item.arguments is not None:
                self.save(Named(item.module, item.name))
                self.save(item.arguments)
                return self.write(pickle.REDUCE)
            return self.write(f"c{item.module}\n{item.name}\n".encode())
        return super().save(item, save_persistent_id)

    def persistent_id(self, item):
        return item.tag if isinstance(item, Storage) else None


def dumps(content):
    """The pickle of `content`, protocol 2 as torch.save uses."""
    file = io.BytesIO()
    Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def save(content, path, **options):
    """torch.save(content, path): arrays in dicts become tensors."""
    storages = {}
    pickled = dumps(_with_tensors(content, storages))
    write_zip(path, pickled, storages, **options)


def write_zip(path, pickled, storages=(), root="archive", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(f"{root}/data.pkl", pickled)
        file.writestr(f"{root}/byteorder", b"little")
        for key, array in dict(storages).items():
            file.writestr(f"{root}/data/{key}", array.tobytes())
        file.writestr(f"{root}/version", b"3\n")


def _with_tensors(content, storages):
    if isinstance(content, dict):
        return {k: _with_tensors(v, storages) for k, v in content.items()}
    if not isinstance(content, np.ndarray):
        return content
    same = [k for k, a in storages.items() if a is content]
    key = same[0] if same else str(len(storages))
    storages[key] = content
    strides = [s // content.itemsize for s in content.strides]
    hooks = Named("collections", "OrderedDict", ())
    kind = Named("torch", KINDS[content.dtype.str[1:]])
    storage = Storage("storage", kind, key, "cuda:0", content.size)
    arguments = (storage, 0, content.shape, tuple(strides), False, hooks)
    return Named("torch._utils", "_rebuild_tensor_v2", arguments)
