"""Random-access sources of examples: TFDS directories, class folders, arrays.

A source has ``len()``, ``source[i]`` -> dict with image (encoded bytes or uint8 [h, w, 3]),
label, and where known a mask, and ``num_classes``. TensorFlow is never needed: TFDS
directories are read through array_record, class folders through plain files.
"""

import json
from pathlib import Path

import numpy as np

from advspur._checks import InputError, check_labels, first_line, require
from advspur._files import readable
from advspur.data.table import Table
from advspur.data.transforms import open_image

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")


def image_files(directory):
    """The image files of a directory, sorted."""
    return sorted(
        p
        for p in Path(directory).iterdir()
        if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."
    )


def read_bytes(path):
    """The content of a file; InputError where there is none to read."""
    with readable(path):
        return Path(path).read_bytes()


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
        return {"image": read_bytes(path), "label": label, "path": str(path)}

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

    @property
    def files(self):
        """The files of the split, sorted."""
        return sorted(self.directory.glob(f"*-{self.split}.array_record-*"))

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        where = f"record {index} of {self.split} in {self.directory}"
        try:
            record = self.records[index]
            return {"image": record["image"], "label": int(record["label"]), "path": where}
        except (RuntimeError, ValueError, KeyError) as error:  # of a damaged file
            raise InputError(f"{where} cannot be read: {first_line(error)}") from error

    def table(self, transform, **facts):
        """The Table of its examples, decoded and transformed when they are asked for.

        Args:
          transform: of Pillow images.
          facts: image_size of `Table`.
        """

        def load(row):
            example = self[row["index"]]
            image = transform(open_image(example["image"], example["path"]))
            return {"image": np.asarray(image), "label": example["label"]}

        return Table(self.num_classes, load, files=self.files, index=range(len(self)), **facts)

    def __repr__(self):
        return f"TfdsSource({str(self.directory)!r}, {self.split!r})"


def array_source(images, labels, *, num_classes, **columns):
    """A source over arrays: images uint8 [n, h, w, 3], labels [n], and more columns [n, ...].

    A `mask` [n, h, w, 1] is a column that batches carry.
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
            len(column) == len(images), f"{name} has {len(column)} entries for {len(images)} images"
        )
    check_labels(labels, len(images))
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
    filled = {label for _, label in source.files}
    empty = [name for label, name in enumerate(source.class_names) if label not in filled]
    require(
        not empty,
        f"{len(empty)} of {source.num_classes} class folders in {directory} hold no image file "
        f"({', '.join(IMAGE_SUFFIXES)}), first {(empty or [''])[0]}: add some or remove the folder",
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
    check_prepared(directory, name, data_dir)
    return TfdsSource(directory, split)


def beside(root, name, split):
    """The source of a split prepared in `root` itself or in the folder around it; None: neither."""
    found = [folder for folder in (root, root.parent) if find_prepared(name, folder)]
    return tfds_source(name, split, data_dir=found[0]) if found else None


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


def check_prepared(directory, name, data_dir):
    """Raise InputError where a TFDS directory is half-written or without random access."""
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
        file_format = info.get("fileFormat", "tfrecord")
        shards = {s["name"]: list(map(int, s["shardLengths"])) for s in info["splits"]}
        prefix = info["name"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{info_file} is damaged ({first_line(error)}): {again}") from error
    require(
        file_format == "array_record",
        f"{directory} is stored as {file_format}, which has no random access: remove it and "
        f"{again} (it writes array_record)",
    )
    for split, lengths in shards.items():
        for shard, length in enumerate(lengths):
            file = f"{prefix}-{split}.array_record-{shard:05d}-of-{len(lengths):05d}"
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
