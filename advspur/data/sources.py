"""Random-access sources of examples, and the data sets that a config can name.

A source has ``len()``, ``source[i]`` -> dict with image (encoded bytes or uint8 [h, w, 3]),
label, and where known group and mask, and ``num_classes``. TensorFlow is never needed: TFDS
directories are read through array_record, class folders through plain files.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from advspur._checks import InputError, require
from advspur._constants import IMAGENET_MEAN, IMAGENET_STD
from advspur.data.table import Table

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")


class Dataset(NamedTuple):
    """The two splits that training needs, and the facts that a model takes from its data."""

    train: object
    validation: object
    image_size: int
    mean: tuple
    std: tuple

    @property
    def num_classes(self):
        """Number of classes of both splits."""
        return self.train.num_classes


def image_files(directory):
    """The image files of a directory, sorted."""
    return sorted(
        p
        for p in Path(directory).iterdir()
        if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."
    )


class FolderSource:
    """Image files in one folder per class; classes are numbered in sorted order."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.class_names = sorted(
            d.name for d in self.directory.iterdir() if d.is_dir() and d.name[0] != "."
        )
        self.num_classes = len(self.class_names)
        self.files = [
            (path, label)
            for label, name in enumerate(self.class_names)
            for path in image_files(self.directory / name)
        ]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        path, label = self.files[index]
        return {"image": path.read_bytes(), "label": label, "path": str(path)}

    def __repr__(self):
        return f"FolderSource({str(self.directory)!r})"


class TfdsSource:
    """One split of a prepared TFDS directory; images stay encoded until they are needed."""

    def __init__(self, directory, split):
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(directory)
        require(
            split in builder.info.splits,
            f"{directory} has no split {split!r}; it has {', '.join(builder.info.splits)}",
        )
        self.directory, self.split = Path(directory), split
        self.num_classes = builder.info.features["label"].num_classes
        self.records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        record = self.records[index]
        return {"image": record["image"], "label": int(record["label"])}

    def __repr__(self):
        return f"TfdsSource({str(self.directory)!r}, {self.split!r})"


def array_source(images, labels, *, num_classes, **columns):
    """A source over arrays: images uint8 [n, h, w, 3], labels [n], and more columns [n, ...].

    `group` [n] and `mask` [n, h, w, 1] are the columns that batches carry.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    require(
        images.dtype == np.uint8 and images.ndim == 4 and images.shape[-1] == 3,
        f"images are {images.dtype} {images.shape}; expected uint8 [n, height, width, 3]",
    )
    require(len(images) > 0, "a source needs at least one example; images is empty")
    columns = {"image": images, "label": labels, **columns}
    for name, column in columns.items():
        require(
            len(column) == len(images),
            f"{name} has {len(column)} entries for {len(images)} images",
        )
    require(
        labels.min() >= 0 and labels.max() < num_classes,
        f"labels lie in [{labels.min()}, {labels.max()}]; expected [0, {num_classes - 1}]",
    )
    return Table(num_classes, **columns)


def folder_source(directory):
    """A source over ``directory/<class name>/<image>.{JPEG,jpg,png}``, classes in sorted order."""
    require(Path(directory).is_dir(), f"{directory} is not a directory")
    source = FolderSource(directory)
    require(
        len(source) > 0,
        f"{directory} holds no images; expected {directory}/<class name>/<image>.JPEG",
    )
    return source


def tfds_source(name, split, *, data_dir):
    """A source over the split of a TFDS data set prepared as array_record under `data_dir`.

    Reads ``data_dir/name/<version>`` (the newest), or ``data_dir`` itself where it holds a
    dataset_info.json. Raises InputError where the directory is missing, half-written, or in a
    file format without random access.
    """
    directory = find_prepared(name, Path(data_dir))
    require(
        directory is not None,
        f"no prepared TFDS directory of {name} in {data_dir}: looked for "
        f"{Path(data_dir) / name}/<version>/dataset_info.json",
    )
    _check_prepared(directory, name, data_dir)
    return TfdsSource(directory, split)


def open_dataset(name, *, data_dir="", shapes=None):
    """The data set a config names: "spurious_shapes", "cifar10", "imagenet2012".

    Args:
      name: data set name.
      data_dir: where TFDS or class-folder data lie; "" means $TFDS_DATA_DIR, else
        ~/tensorflow_datasets.
      shapes: options of `spurious_shapes` (with num_train, num_validation for the sizes).
    Raises: InputError naming the places looked at, the layouts accepted and what to run.
    """
    if name == "spurious_shapes":
        return _open_shapes(dict(shapes or {}))
    known = {
        "cifar10": ("train", "test", 32, CIFAR10_MEAN, CIFAR10_STD),
        "imagenet2012": ("train", "validation", 224, IMAGENET_MEAN, IMAGENET_STD),
    }
    require(
        name in known,
        f"dataset = {name!r} is not known; allowed: 'spurious_shapes', "
        + ", ".join(map(repr, known)),
    )
    train, validation, *facts = known[name]
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    data_dir = Path(data_dir or default).expanduser()
    if find_prepared(name, data_dir) is not None:
        splits = [tfds_source(name, split, data_dir=data_dir) for split in (train, validation)]
        return Dataset(*splits, *facts)
    for root in (data_dir / name, data_dir):
        if (root / "train").is_dir() and (root / "val").is_dir():
            dataset = Dataset(folder_source(root / "train"), folder_source(root / "val"), *facts)
            names = dataset.train.class_names, dataset.validation.class_names
            require(
                names[0] == names[1],
                f"{root}/train and {root}/val have different class folders: "
                f"{len(names[0])} and {len(names[1])}, first difference "
                f"{sorted(set(names[0]) ^ set(names[1]))[:1]}",
            )
            return dataset
    raise InputError(
        f"no {name} data in {data_dir}. Accepted layouts: {data_dir / name}/<version>/ (TFDS "
        f"array_record) or {data_dir / name}/{{train,val}}/<class>/<image>.JPEG. Prepare the "
        f"first with: python scripts/prepare_data.py tfds {name} --data_dir {data_dir} ; name "
        "another place with --config.data_dir=DIR, or run on the embedded data with "
        "--config.dataset=spurious_shapes"
    )


def _open_shapes(options):
    from advspur.data.spurious_shapes import spurious_shapes

    sizes = {
        "train": options.pop("num_train", 10_000),
        "validation": options.pop("num_validation", 1_000),
    }
    splits = [spurious_shapes(split, num_examples=size, **options) for split, size in sizes.items()]
    image_size = splits[0].columns["image"].shape[1]
    return Dataset(*splits, image_size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def find_prepared(name, data_dir):
    """The directory with dataset_info.json, or the remains of one that was being written."""
    if (data_dir / "dataset_info.json").is_file():
        return data_dir
    if not (data_dir / name).is_dir():
        return None
    found = [d for d in (data_dir / name).iterdir() if d.is_dir() and d.name[:1].isdigit()]
    found += [d for d in (data_dir / name).iterdir() if d.name.startswith("incomplete.")]

    def rank(directory):
        version = [int(d) if d.isdigit() else -1 for d in directory.name.split(".")]
        return (directory / "dataset_info.json").is_file(), version

    return max(found, key=rank, default=None)


def _check_prepared(directory, name, data_dir):
    again = (
        f"prepare it again with: python scripts/prepare_data.py tfds {name} --data_dir {data_dir}"
    )
    info_file = directory / "dataset_info.json"
    require(
        info_file.is_file() and (directory / "features.json").is_file(),
        f"{directory} is half-written (no dataset_info.json or features.json): remove it and "
        f"{again}",
    )
    try:
        info = json.loads(info_file.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{info_file} is damaged ({error}): {again}") from error
    file_format = info.get("fileFormat", "tfrecord")
    require(
        file_format == "array_record",
        f"{directory} is stored as {file_format}, which has no random access: remove it and "
        f"{again} (it writes array_record)",
    )
    for split in info["splits"]:
        lengths = [int(length) for length in split["shardLengths"]]
        for shard, length in enumerate(lengths):
            file = f"{info['name']}-{split['name']}.array_record-{shard:05d}-of-{len(lengths):05d}"
            fault = _shard_fault(directory / file, length)
            require(
                fault is None, f"{directory} is half-written: {file} {fault}: remove it and {again}"
            )


def _shard_fault(file, length):
    """What is wrong with one array_record file, or None."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not file.is_file():
        return "is missing"
    try:
        reader = ArrayRecordReader(str(file))
        found = reader.num_records()  # from the index at the file's end; 0 without one
        reader.close()  # here the reader says what it missed
    except RuntimeError:
        return "is cut short"
    return None if found == length else f"holds {found} of {length} records"
