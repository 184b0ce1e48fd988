"""The data sets that a config can name: two splits, and the facts that a model needs."""

import functools
import os
from pathlib import Path
from typing import NamedTuple

from advspur._checks import InputError, check_choice, require
from advspur._constants import IMAGENET_MEAN, IMAGENET_STD
from advspur.data.color_shift import SPLITS, shifted_table
from advspur.data.files import folder_source
from advspur.data.layouts import SkippingUnreadable, in_memory
from advspur.data.mask_folders import with_masks
from advspur.data.own import read_own
from advspur.data.spurious_shapes import spurious_shapes
from advspur.data.tfds import find_prepared, tfds_source

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
# Names of the two splits, image size, mean and standard deviation of the pixels.
# An image size of None depends on the options.
FACTS = {
    "spurious_shapes": (("train", "validation"), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    "cifar10": (("train", "test"), 32, CIFAR10_MEAN, CIFAR10_STD),
    "imagenet2012": (("train", "validation"), 224, IMAGENET_MEAN, IMAGENET_STD),
    "own": (("train", "val"), None, IMAGENET_MEAN, IMAGENET_STD),
}


class Dataset(NamedTuple):
    """The two splits that training needs, and the facts that a model takes from its data.

    `mean` and `std` are those of the pixels, in [0, 1] units, for each channel.
    """

    train: object
    validation: object
    image_size: int
    mean: tuple
    std: tuple

    @property
    def num_classes(self):
        """The number of classes, the same in both splits."""
        return self.train.num_classes


def open_dataset(
    name,
    *,
    data_dir="",
    mask_dir="",
    own=None,
    shapes=None,
    color_shift=None,
    skip_unreadable=False,
):
    """Open "spurious_shapes", "cifar10" (decoded into memory), "imagenet2012" or "own".

    Args:
      data_dir: folder of TFDS or class-folder data ("": see `data_root`); for "own", the path that
        `read_own` takes.
      mask_dir: folder of masks of the training images, for "imagenet2012" only (see `with_masks`);
        "": no masks.
      own: options of `read_own`; 0 and "" count as not given, and columns.attributes is a text
        with commas.
      shapes: options of `spurious_shapes`, and the sizes num_train and num_validation.
      color_shift: {"rho", "shift", "seed"} of `inject_color_shift`, for "cifar10" only; None or
        rho = 0: no shift.
      skip_unreadable: leave out images that cannot be read, with a warning, instead of failing.
    Raises: InputError naming the places searched, the accepted layouts and the command to run.
    """
    rho = (color_shift or {}).get("rho", 0)
    require(not rho or name == "cifar10", f"color_shift.rho = {rho}: {name} has no colour shift")
    check_choice("dataset", name, tuple(FACTS))
    takes_masks = not mask_dir or name == "imagenet2012"
    require(takes_masks, f"mask_dir = {mask_dir} is for imagenet2012, not for {name}: drop it")
    parts, size, mean, std = FACTS[name]
    if name == "spurious_shapes":
        options = {"num_train": 10_000, "num_validation": 1_000, **(shapes or {})}
        counts = {part: options.pop(f"num_{part}") for part in parts}
        splits = [spurious_shapes(p, num_examples=n, **options) for p, n in counts.items()]
        size = splits[0].image_size
    elif name == "cifar10":
        splits = _decoded(data_root(data_dir), skip_unreadable)
    elif name == "own":
        splits = _own_splits(data_dir, parts, skip_unreadable=skip_unreadable, **own or {})
        size = splits[0].image_size
    else:
        splits = _find_splits(name, data_root(data_dir))
        if mask_dir:
            splits[0] = with_masks(splits[0], mask_dir)
        splits = list(map(SkippingUnreadable, splits)) if skip_unreadable else splits
    if rho:
        tables = zip(splits, SPLITS, strict=True)
        splits = [shifted_table(table, split, **color_shift) for table, split in tables]
    return Dataset(*splits, size, mean, std)


def data_root(data_dir=""):
    """Return the folder of data: `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(data_dir or default).expanduser()


def _own_splits(path, names, *, columns=None, **options):
    require(path, "dataset = 'own' needs data_dir: give the folder or the table of the data")
    columns = dict(columns or {})
    columns["attributes"] = [word for word in columns.get("attributes", "").split(",") if word]
    options = {name: value for name, value in options.items() if value}
    parts, _ = read_own(path, columns=columns, **options)
    missing = [name for name in names if name not in parts]
    fault = f"{path} has no part {' and no part '.join(missing)}, only {', '.join(parts)}"
    need = f"training needs {' and '.join(names)} (see docs/own_data.md)"
    require(not missing, f"{fault}: {need}")
    return [parts[name] for name in names]


@functools.lru_cache(maxsize=1)  # the models of a suite share their data
def _decoded(data_dir, skip_unreadable):
    splits = _find_splits("cifar10", data_dir)
    return [in_memory(source, 32, skip_unreadable=skip_unreadable) for source in splits]


def _find_splits(name, data_dir):
    """Return [training source, validation source] from whichever accepted layout is there."""
    if find_prepared(name, data_dir) is not None:
        return [tfds_source(name, split, data_dir=data_dir) for split in FACTS[name][0]]
    for root in (data_dir / name, data_dir):
        if (root / "train").is_dir() and (root / "val").is_dir():
            splits = [folder_source(root / part) for part in ("train", "val")]
            train, val = (source.names["label"] for source in splits)
            fault = f"{len(train)} and {len(val)}, first difference {sorted({*train} ^ {*val})[:1]}"
            where = f"{root}/train and {root}/val have different class folders"
            require(train == val, f"{where}: {fault}")
            return splits
    raise InputError(
        f"no {name} data in {data_dir}. Accepted layouts: {data_dir / name}/<version>/ (TFDS "
        f"array_record) or {data_dir / name}/{{train,val}}/<class>/<image>.JPEG. Prepare the "
        f"first with: python scripts/prepare_data.py tfds {name} --data_dir {data_dir} ; or name "
        "a different folder with --config.data_dir=DIR, or use the embedded data with "
        "--config.dataset=spurious_shapes"
    )
