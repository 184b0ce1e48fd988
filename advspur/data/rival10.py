"""RIVAL10 and relative foreground sensitivity, RFS (Moayeri et al., CVPR 2022).

A linear head for ten classes on the frozen features, then noise on the object and off it.
5,108 of the 5,306 test images are ImageNet training images, which the backbones have seen.
"""

import base64
import functools
import io
import itertools
import warnings
from pathlib import Path

import jax
import numpy as np

from advspur._checks import InputError, check_choice, first_line, require
from advspur._inert_pickle import read_pickle
from advspur.benchmarks.features import cached_features
from advspur.benchmarks.predict import correct_on
from advspur.benchmarks.regions import Regions, mask_regions, region_records
from advspur.data.batches import train_batches
from advspur.data.label_maps import RIVAL10, rival10_labels
from advspur.data.layouts import (
    file_table,
    load_options,
    missing_text,
    open_file,
    require_count,
    require_data,
    require_whole,
    squared_transform,
    with_defaults,
    with_mask,
    without_unreadable,
)
from advspur.data.sources import image_files, read_bytes
from advspur.data.table import Table
from advspur.data.transforms import open_image, resize_square, to_unit
from advspur.models import with_head
from advspur.training.probe import check_fit, fit_head_in_train_mode, fit_linear_probe

NUM_CLASSES = ()  # any: it uses features
DIRECTORIES = ("RIVAL10", "rival10")
LAYOUT = (
    "{train,test}/ordinary/<wnid>_<file>.JPEG and {train,test}/entire_object_masks/ with the same "
    "names, as rival10.zip unpacks"
)
SIZES = {"train": 21_178, "test": 5_306}
OBJECT = "entire-object"  # its key among the attribute masks
TRANSFORMS = ("resize", "resize_crop")
MASKS = ("soft", "threshold", "nonzero")
REGIONS = Regions(
    names=("foreground", "background"),
    linf_noise_levels=tuple(k / 255 for k in (30, 60, 90, 120, 150, 180, 210)),
    l2_noise_levels=tuple(25.0 * k for k in range(1, 9)),
)


@functools.lru_cache(maxsize=1)
def load(
    data_dir, *, transform="resize", val_only=False, allow_partial=False, skip_unreadable=False
):
    """{"train": Table, "test": Table}, the latter with object masks.

    The mask is the file of entire_object_masks/, else the entry "entire-object" of the image's
    `_attr_dict.pkl`, which is read as data.

    Args:
      transform: of image and mask: "resize" to 224 x 224, or "resize_crop" to 256 x 256 and the
        central 224 (the authors' later code).
      val_only: test on the ImageNet validation images of both splits (989), which no backbone was
        trained on, and keep them out of the head's training.
    """
    check_choice("transform", transform, TRANSFORMS)
    root = Path(data_dir).expanduser()
    splits = {split: root / split / "ordinary" for split in SIZES}
    require_data(any(d.is_dir() for d in splits.values()), "RIVAL10", root, LAYOUT)
    rows = {}
    for split, folder in splits.items():
        require(folder.is_dir(), f"{folder} is missing: both splits are needed")
        images = [p for p in image_files(folder) if not p.stem.endswith("_merged_mask")]
        rows[split] = [_row(path, root / split) for path in images]
        require_count(rows[split], SIZES[split], folder, allow_partial)
    both = sorted(set.intersection(*({row["path"].name for row in r} for r in rows.values())))
    require(not both, f"{root}: {len(both)} images are in both splits, first {''.join(both[:1])}")
    if val_only:
        every = rows["train"] + rows["test"]
        rows["test"] = [row for row in every if "ILSVRC2012_val" in row["path"].name]
        rows["train"] = [row for row in rows["train"] if "ILSVRC2012_val" not in row["path"].name]
    missing = [row["path"].name for row in rows["test"] if row["mask_path"] is None]
    fault = missing_text(missing, len(rows["test"]), "masks of test images")
    require_whole(fault, root, allow_partial=allow_partial)
    rows["test"] = [row for row in rows["test"] if row["mask_path"] is not None]
    to_square = functools.partial(resize_square, size=224)
    change = to_square if transform == "resize" else squared_transform
    parts = {}
    for split, of_split in rows.items():
        require(of_split, f"{root} has no {split} images to use")
        columns = {name: [row[name] for row in of_split] for name in of_split[0]}
        labels = np.array(columns.pop("label"))
        if split == "train":  # the head's training needs no masks
            parts[split] = file_table(len(RIVAL10), columns["path"], labels, change)
        else:
            read = functools.partial(_read, change)
            parts[split] = Table(len(RIVAL10), read, label=labels, **columns)
    return without_unreadable(parts, skip_unreadable)


def num_passes(data_dir, **options):
    """Forward passes over an image that `evaluate` makes."""
    options = with_defaults(evaluate, options)
    check_options(options)
    parts = load(data_dir, **load_options(load, options))
    steps = 3 * len(parts["train"]) + len(parts["test"])  # of the legacy head, an epoch
    head = options["num_epochs"] * steps if options["legacy"] else len(parts["train"])
    return head + REGIONS.changed(options["regions"]).num_passes(len(parts["test"]))


def check_options(options):
    """Raise InputError for options of `evaluate` that no measurement can have."""
    check_choice("mask", options["mask"], MASKS)
    share = options["held_out"]
    require(0 < share < 1, f"held_out = {share}: it must lie between 0 and 1")
    check_fit(
        learning_rates=(options["learning_rate"],),
        weight_decay=options["weight_decay"],
        num_epochs=options["num_epochs"],
        batch_size=options["head_batch_size"],
    )
    if options["legacy"]:
        require(jax.process_count() == 1, "legacy trains its head in one process only")


def evaluate(
    classifier,
    data_dir,
    *,
    batch_size,
    key,
    progress=None,
    cache_dir=None,
    regions=None,
    mask="soft",
    legacy=False,
    learning_rate=1e-5,
    weight_decay=1e-4,
    head_batch_size=32,
    num_epochs=10,
    held_out=0.1,
    **reading,
):
    """What `region_records` measures of the model with a head for the ten classes.

    Args:
      classifier: any model; its features are used.
      key: of the head's start and order, and of the noise.
      cache_dir: where features are kept.
      regions: changes to REGIONS, a dict.
      mask: "soft", as the masks are; "threshold" at 1/2; "nonzero": every value above 0 is object.
      legacy: train the head as the official code does: images not normalised, batch normalisation
        in train mode, the epoch chosen on the test images.
      held_out: share of the training images that the epoch of the head is chosen on.
      reading: of `load`.
    """
    fit = {"learning_rate": learning_rate, "weight_decay": weight_decay, "num_epochs": num_epochs}
    sizes = {"head_batch_size": head_batch_size, "held_out": held_out}
    check_options({"mask": mask, "legacy": legacy} | fit | sizes)
    parts = load(data_dir, **reading)
    head_key, noise_key = jax.random.split(key)
    running = {"batch_size": batch_size, "progress": progress}
    if legacy:
        classifier = classifier.replace(mean=(0.0,) * 3, std=(1.0,) * 3)
        batches = functools.partial(_augmented, parts["train"], head_batch_size, progress)
        accuracy = functools.partial(_accuracy, table=parts["test"], **running)
        fit |= {"num_classes": len(RIVAL10), "key": head_key}
        classifier = fit_head_in_train_mode(classifier, batches, accuracy, **fit)
    else:
        classifier = with_probe(
            classifier,
            parts["train"],
            transform=reading.get("transform", "resize"),
            key=head_key,
            cache_dir=cache_dir,
            **fit,
            **sizes,
            **running,
        )
    return region_records(
        classifier,
        parts["test"],
        REGIONS.changed(regions),
        key=noise_key,
        to_regions=functools.partial(_regions, mask),
        **running,
    )


def with_probe(
    classifier,
    train,
    *,
    transform,
    key,
    learning_rate,
    weight_decay,
    num_epochs,
    cache_dir,
    head_batch_size=32,
    held_out=0.1,
    **running,
):
    """The classifier with a linear head for the ten classes, fitted to its features of `train`."""
    features = cached_features(
        classifier, train, f"rival10: {transform}", cache_dir=cache_dir, **running
    )
    order = np.random.default_rng(0).permutation(len(train))
    kept, chosen_on = np.split(order, [len(train) - max(1, round(held_out * len(train)))])
    labels = train.columns["label"]
    (probe,) = fit_linear_probe(
        features[kept],
        labels[kept],
        (features[chosen_on], labels[chosen_on]),
        num_classes=len(RIVAL10),
        learning_rates=(learning_rate,),
        weight_decay=weight_decay,
        batch_size=head_batch_size,
        num_epochs=num_epochs,
        key=key,
    )
    return with_head(classifier, probe.kernel, probe.bias)


def _row(path, split):
    """What is known of an image from its name, and where its mask is."""
    wnid = path.name.split("_")[0]
    labels = rival10_labels()
    require(wnid in labels, f"{path} is named for no RIVAL10 class: it begins with {wnid!r}")
    mask = split / "entire_object_masks" / path.name
    attributes = path.with_name(f"{path.stem}_attr_dict.pkl")
    found = next((file for file in (mask, attributes) if file.is_file()), None)
    return {"path": path, "mask_path": found, "label": labels[wnid]}


def _read(change, row):
    image, mask = open_file(row["path"]), _open_mask(row["mask_path"])
    if image.size != mask.size:
        warnings.warn(  # a text without the file's name is shown once
            f"{row['path'].parent}: masks differ in size from their images; each is resized on its "
            "own, as the official loader does",
            stacklevel=2,
        )
    return with_mask(image, mask, change, row["path"], row["mask_path"])


def _open_mask(path):
    if path.suffix != ".pkl":
        return open_file(path, "L")
    try:
        attributes, _ = read_pickle(io.BytesIO(read_bytes(path)))
        encoded = base64.b64decode(attributes[OBJECT], validate=True)
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no mask {OBJECT!r}: {first_line(error)}") from error
    return open_image(encoded, path, "L")


@functools.partial(jax.jit, static_argnums=0)
def _regions(kind, masks):
    if kind != "soft":
        masks = 255 * (masks >= 128 if kind == "threshold" else masks > 0).astype(masks.dtype)
    return mask_regions(masks)


def _augmented(table, batch_size, progress, epoch):
    """The training batches of one epoch, augmented, as (images in [0, 1], labels)."""
    encoded = Table(
        table.num_classes,
        lambda row: {"image": read_bytes(row["path"]), "path": str(row["path"])},
        path=table.columns["path"],
        label=table.columns["label"],
    )
    batch_size = min(batch_size, len(table))
    steps = len(table) // batch_size
    stream = train_batches(
        encoded,
        batch_size=batch_size,
        image_size=224,
        augmentation="rival10",
        seed=0,
        start_step=epoch * steps,
        share=(0, 1),  # every process fits the same head
    )
    for batch in itertools.islice(stream, steps):
        yield to_unit(batch.image), batch.label
    if progress is not None:
        progress.advance(3 * len(table))


def _accuracy(classifier, *, table, **running):
    return float(np.mean(correct_on(classifier, table, **running)))
