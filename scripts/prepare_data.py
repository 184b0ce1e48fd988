"""Prepare TFDS data sets in array_record, and check the benchmarks' data sets.

python scripts/prepare_data.py tfds NAME [--data_dir DIR]
    download and prepare a TFDS data set (needs TensorFlow: pip install -e '.[prepare]')
python scripts/prepare_data.py arrays FILE.npz NAME [--data_dir DIR]
    store your own arrays under a TFDS name, without TensorFlow; the file contains
    <split>_images uint8 [n, h, w, 3] and <split>_labels [n] for each split
python scripts/prepare_data.py check NAME DIR [--sample N] [--image_dir DIR]
    check that a benchmark's directory (docs/benchmarks.md) is complete: counts, the first missing
    or unreadable file; with --sample, decode only N images of each part
"""

import io
import os
import re
import warnings
import zipfile
from pathlib import Path

import _cli
from absl import flags

DEFAULT_DIR = "~/tensorflow_datasets"
MOST_CLASSES = 1_000_000
flags.DEFINE_string("data_dir", os.environ.get("TFDS_DATA_DIR") or DEFAULT_DIR, "Target folder.")
flags.DEFINE_integer("sample", 0, "check: decode this many images of each part; 0: all.")
flags.DEFINE_string("image_dir", "", "check salient_imagenet: ImageNet's train folder.")


def main(flags, *arguments):
    from advspur._checks import InputError

    data_dir = Path(flags.data_dir).expanduser()
    match arguments:
        case ("tfds", name):
            prepare_tfds(name, data_dir)
        case ("arrays", file, name):
            print(prepare_arrays(file, name, data_dir))
        case ("check", name, directory):
            check_benchmark(name, directory, flags.sample, flags.image_dir)
        case _:
            raise InputError("expected: tfds NAME, or arrays FILE.npz NAME, or check NAME DIR")


def check_benchmark(name, directory, sample, image_dir):
    """Print whether a benchmark's directory is complete."""
    from advspur._checks import require
    from advspur._progress import Progress
    from advspur.data.readers import check_directory

    def progress_of(total):
        return Progress(total, f"check {name}", unit="img")

    options = {"image_dir": image_dir} if name == "salient_imagenet" else {}
    call = {"line": print, "progress_of": progress_of, "sample": sample}
    complete = check_directory(name, directory, **call, **options)
    require(complete, f"{directory} does not match the published data; see the messages above")
    print(f"{name} in {directory} is complete")


def prepare_tfds(name, data_dir):
    """Download and prepare a TFDS data set as array_record."""
    import tensorflow_datasets as tfds

    from advspur._checks import InputError, first_line
    from advspur.data.tfds import check_prepared

    check_word("NAME", name.partition(":")[0].partition("/")[0])
    try:
        import tensorflow  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "preparing a TFDS data set needs TensorFlow (reading it does not): "
            "pip install -e '.[prepare]'"
        ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        raise InputError(f"TFDS has no data set {name!r}: {first_line(error)}") from error
    try:
        builder.download_and_prepare()
    except Exception as error:  # the downloaders of TFDS raise many kinds
        raise InputError(
            f"TFDS could not prepare {name}: {first_line(error)}; put files that must be "
            f"downloaded by hand, such as ImageNet's, into {data_dir / 'downloads' / 'manual'}"
        ) from error
    check_prepared(Path(builder.data_path), name, data_dir)  # earlier files may differ
    print(builder.data_path)


def prepare_arrays(file, name, data_dir, *, version="1.0.0"):
    """Store the splits of an npz file in ``data_dir/name/version``; return that directory."""
    import tensorflow_datasets as tfds
    from PIL import Image

    from advspur._checks import require
    from advspur.data.tfds import check_prepared

    check_word("NAME", name)
    before = [d for d in (data_dir / name).glob("*") if not d.name.startswith("incomplete.")]
    require(not before, f"{data_dir / name} is not empty: remove it or choose a different NAME")
    sources = read_arrays(file)
    source = next(iter(sources.values()))
    num_classes, shape = source.num_classes, source.columns["image"].shape[1:]

    def examples(source):
        for index in range(len(source)):
            png = io.BytesIO()
            Image.fromarray(source[index]["image"]).save(png, "PNG")
            yield index, {"image": png.getvalue(), "label": int(source[index]["label"])}

    with tfds.core.registered.skip_registration():

        class ArraysBuilder(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version(version)
            pkg_dir_path = Path(__file__).parent

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=shape),
                    "label": tfds.features.ClassLabel(num_classes=num_classes),
                }
                features = tfds.features.FeaturesDict(features)
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, _):
                return {split: examples(source) for split, source in sources.items()}

            def _generate_examples(self):
                raise AssertionError("the splits are already generators")

    ArraysBuilder.name = name
    builder = ArraysBuilder(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    check_prepared(Path(builder.data_path), name, data_dir)
    return builder.data_path


def check_word(what, text):
    """Check a name, which becomes part of paths."""
    from advspur._checks import require

    fault = f"{what} = {text!r}: it must begin with a letter and contain letters, digits and _ only"
    require(re.fullmatch(r"[A-Za-z]\w*", text, re.ASCII), fault)


def read_arrays(file):
    """Return {split: source} of an npz file, all with one image size and number of classes.

    Warns of classes without an image in a split.
    """
    import numpy as np

    from advspur._checks import InputError, check_labels, first_line, require
    from advspur.data import array_source

    require(Path(file).is_file(), f"no file {file}")
    advice = "np.savez(FILE, train_images=..., train_labels=...) makes one"
    require(zipfile.is_zipfile(file), f"{file} is not an .npz file; {advice}")
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = dict(content)
    except Exception as error:  # zipfile, the decompressors and NumPy's headers raise many kinds
        what = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{file} cannot be read: {what}") from error
    splits = sorted(key.removesuffix("_images") for key in arrays if key.endswith("_images"))
    names = ", ".join(arrays) or "nothing"
    require(splits, f"{file} has no <split>_images; it has {names}")
    expected = {f"{split}_{what}" for split in splits for what in ("images", "labels")}
    missing = ", ".join(sorted(expected - arrays.keys()))
    surplus = ", ".join(sorted(arrays.keys() - expected))
    require(not missing, f"{file} lacks {missing}")
    fault = f"{file} has {surplus}, which is neither <split>_images nor <split>_labels"
    require(not surplus, fault)
    for split in splits:
        check_word("split", split)
        count = len(np.atleast_1d(arrays[f"{split}_images"]))
        check_labels(arrays[f"{split}_labels"], count, name=f"{split}_labels")
    largest = max(int(arrays[f"{split}_labels"].max(initial=0)) for split in splits)
    require(largest < MOST_CLASSES, f"{file} has a label {largest}: give classes as 0, 1, 2, ...")
    sources = {}
    for split in splits:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        sources[split] = array_source(images, labels, num_classes=1 + largest)
        absent = sorted(set(range(1 + largest)) - set(labels.tolist()))
        if absent:
            count = f"{len(absent)} of {1 + largest} classes"
            text = f"{split} has no image of {count}, first {absent[0]}: labels count from 0"
            warnings.warn(text, stacklevel=2)
    sizes = {split: source.columns["image"].shape[1:3] for split, source in sources.items()}
    fault = f"{file} has images of several sizes: {sizes}; a data set has one size"
    require(len(set(sizes.values())) == 1, fault)
    return sources


if __name__ == "__main__":
    _cli.run(main, arguments=True)
