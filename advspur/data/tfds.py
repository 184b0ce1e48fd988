"""TFDS directories, read through array_record without TensorFlow."""

import json
from pathlib import Path

from advspur._checks import InputError, first_line, require
from advspur.data.table import Table
from advspur.data.transforms import open_image


def tfds_source(name, split, *, data_dir, transform=None):
    """Return a Table of one split of a TFDS data set prepared as array_record under `data_dir`.

    Reads ``data_dir/name/<version>`` (the newest), or ``data_dir`` itself if it contains a
    dataset_info.json. Images stay encoded if `transform` is None.
    """
    directory = find_prepared(name, Path(data_dir))
    expected = f"{Path(data_dir) / name}/<version>/dataset_info.json"
    fault = f"no prepared TFDS directory of {name} in {data_dir}: expected {expected}"
    require(directory is not None, fault)
    check_prepared(directory, name, data_dir)
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(directory)
    splits = builder.info.splits
    require(split in splits, f"{directory} has no split {split!r}; it has {', '.join(splits)}")
    records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})

    def load(row):
        where = f"record {row['index']} of {split} in {directory}"
        try:
            record = records[row["index"]]
            example = {"image": record["image"], "label": int(record["label"]), "path": where}
            if "file_name" in record:
                name = record["file_name"]
                example["file_name"] = name.decode() if isinstance(name, bytes) else str(name)
        except (RuntimeError, ValueError, KeyError) as error:  # a damaged file
            raise InputError(f"{where} cannot be read: {first_line(error)}") from error
        if transform is not None:
            example["image"] = transform.pixels(open_image(example["image"], where), where)
        return example

    return Table(
        builder.info.features["label"].num_classes,
        load,
        image_size=transform.size if transform else 224,
        root=directory,
        files=sorted(directory.glob(f"*-{split}.array_record-*")),
        transform=transform,
        index=range(len(records)),
    )


def beside(root, name, split, transform):
    """Return the Table of a split prepared in `root` or its parent folder, or None."""
    for folder in (root, root.parent):
        if find_prepared(name, folder):
            return tfds_source(name, split, data_dir=folder, transform=transform)


def find_prepared(name, data_dir):
    """Return the newest directory with dataset_info.json, else one half-written, else None."""
    if (data_dir / "dataset_info.json").is_file():
        return data_dir
    if not (data_dir / name).is_dir():
        return None
    folders = [d for d in (data_dir / name).iterdir() if d.is_dir() and d.name[:1].isdigit()]
    folders += (data_dir / name).glob("incomplete.*")

    def rank(directory):
        version = [int(d) if d.isdigit() else -1 for d in directory.name.split(".")]
        return (directory / "dataset_info.json").is_file(), version

    return max(folders, key=rank, default=None)


def check_prepared(directory, name, data_dir):
    """Raise InputError if a TFDS directory is half-written or has no random access."""
    command = f"python scripts/prepare_data.py tfds {name} --data_dir {data_dir}"
    again = f"prepare it again with: {command}"
    info_file = directory / "dataset_info.json"
    is_complete = info_file.is_file() and (directory / "features.json").is_file()
    fault = f"{directory} is half-written (no dataset_info.json or features.json)"
    require(is_complete, f"{fault}: remove it and {again}")
    try:
        info = json.loads(info_file.read_text())
        file_format = info.get("fileFormat", "tfrecord")
        shards = {s["name"]: list(map(int, s["shardLengths"])) for s in info["splits"]}
        prefix = info["name"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{info_file} is damaged ({first_line(error)}): {again}") from error
    fault = f"{directory} is stored as {file_format}, which has no random access"
    advice = f"remove it and {again} (it writes array_record)"
    require(file_format == "array_record", f"{fault}: {advice}")
    for split, lengths in shards.items():
        for shard, length in enumerate(lengths):
            file = f"{prefix}-{split}.array_record-{shard:05d}-of-{len(lengths):05d}"
            fault = _shard_fault(directory / file, length)
            text = f"{directory} is half-written: {file} {fault}: remove it and {again}"
            require(fault is None, text)


def _shard_fault(file, length):
    """Return what is wrong with one array_record file, or None."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not file.is_file():
        return "is missing"
    try:
        reader = ArrayRecordReader(str(file))
        count = reader.num_records()  # from the index at the file's end; 0 without one
        reader.close()  # raises if it could not read something
    except RuntimeError:
        return "is cut short"
    return None if count == length else f"has {count} of {length} records"
