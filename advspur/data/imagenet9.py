"""ImageNet-9 (Xiao et al., ICLR 2021): objects of nine superclasses on changed backgrounds.

BG-gap = accuracy on MIXED-SAME (background of another image of the superclass) - accuracy on
MIXED-RAND (of a random superclass). A 1000-way prediction counts as the superclass of its
class; one of no superclass is wrong.
"""

import functools
import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from advspur._checks import InputError, check_choice, check_count, require, require_finite
from advspur._devices import replicate, split_batch, whole_batch
from advspur.benchmarks import metrics
from advspur.benchmarks.predict import correct, correct_on, require_classes
from advspur.benchmarks.regions import Regions, region_records
from advspur.data.label_maps import IMAGENET9, NUM_IMAGENET_CLASSES, imagenet9_map
from advspur.data.layouts import (
    file_table,
    list_classes,
    missing_text,
    open_file,
    require_count,
    require_data,
    require_whole,
    spread,
    standard_transform,
    with_mask,
    without_unreadable,
)
from advspur.data.sources import read_bytes
from advspur.data.table import Table
from advspur.data.transforms import to_unit
from advspur.models import PooledClassifier
from advspur.records import record

NUM_CLASSES = (NUM_IMAGENET_CLASSES, len(IMAGENET9))
DIRECTORIES = ("bg_challenge", "backgrounds_challenge_data", "imagenet9")
LAYOUT = "<variant>/val/<00_dog ... 08_fish>/*.JPEG and fg_mask/val/*/*.npy, as the release unpacks"
VARIANTS = (
    "original",
    "mixed_same",
    "mixed_rand",
    "mixed_next",
    "no_fg",
    "only_fg",
    "only_bg_b",
    "only_bg_t",
)
NEEDED = ("original", "mixed_same", "mixed_rand", "only_bg_t")
SIZES = dict.fromkeys(VARIANTS, 4_050)
TRANSFORMS = ("none", "standard")
REGIONS = Regions(names=("foreground", "background"))
# NumPy parses a file's header as Python, which CPython 3.11 before 3.11.8 cannot do in two threads.
ONE_AT_A_TIME = threading.Lock()


@functools.lru_cache(maxsize=1)
def load(data_dir, *, transform="none", allow_partial=False, skip_unreadable=False):
    """{variant: Table}; "original" has the masks of fg_mask.

    Args:
      transform: "none", as the images are stored at 224 x 224 and the official code only scales
        them; "standard" resizes to 256 and crops to 224 as for ImageNet.
    """
    check_choice("transform", transform, TRANSFORMS)
    root = Path(data_dir).expanduser()
    there = any((root / variant).is_dir() for variant in VARIANTS)
    require_data(there, "ImageNet-9", root, LAYOUT)
    labels = {folder: label for label, folder in enumerate(IMAGENET9)}
    change = standard_transform if transform == "standard" else lambda image: image
    parts = {}
    for variant in VARIANTS:
        folder = root / variant / "val"
        if not folder.is_dir():
            require_whole(f"{folder} is missing", root, allow_partial=allow_partial)
            continue
        paths, numbers = list_classes(folder, labels, allow_partial=allow_partial)
        if variant == "original":
            parts[variant] = _with_masks(root, paths, numbers, change, allow_partial)
        else:
            parts[variant] = file_table(len(IMAGENET9), paths, numbers, change)
        require_count(parts[variant], SIZES[variant], folder, allow_partial)
    missing = [v for v in NEEDED if v not in parts]
    require(not missing, f"{root} has no {', '.join(missing)}, which the gaps and masks need")
    return without_unreadable(parts, skip_unreadable)


def num_passes(data_dir, *, regions=None, challenge_backgrounds=0, mapped_only=False, **options):
    """Forward passes over an image that `evaluate` makes (the challenge at its most)."""
    check_count("challenge_backgrounds", challenge_backgrounds, 0)
    parts = load(data_dir, **options)
    passes = sum(map(len, parts.values())) + len(parts["original"]) * challenge_backgrounds
    return passes + REGIONS.changed(regions).num_passes(len(parts["original"]))


def evaluate(
    classifier,
    data_dir,
    *,
    batch_size,
    key,
    progress=None,
    cache_dir=None,
    regions=None,
    challenge_backgrounds=0,
    mapped_only=False,
    **options,
):
    """`accuracy` (variant), `background_gap`, `relative_background_gap`, and with the masks of
    "original" what `region_records` measures without noise.

    Args:
      classifier: with the 1000 ImageNet classes, or ImageNet-9's nine.
      regions: changes to REGIONS, a dict.
      challenge_backgrounds: on how many backgrounds of "only_bg_t" each object is pasted for
        `challenge_accuracy`, the share of objects that no background turns wrong; 0: not measured.
        The official figure takes all 4,050.
      mapped_only: predict among the 370 classes that have a superclass; officially a prediction of
        another class is wrong.
      options: of `load`.
    """
    require_classes(classifier, NUM_CLASSES)
    check_count("challenge_backgrounds", challenge_backgrounds, 0)
    if classifier.num_classes == NUM_IMAGENET_CLASSES:
        groups = jnp.asarray(imagenet9_map())
        classifier = PooledClassifier(classifier, groups, len(IMAGENET9), with_rest=not mapped_only)
    parts = load(data_dir, **options)
    running = {"batch_size": batch_size, "progress": progress}

    outcomes = {v: correct_on(classifier, table, **running) for v, table in parts.items()}
    records = [
        record("accuracy", metrics.accuracy(of_variant), options={"variant": variant})
        for variant, of_variant in outcomes.items()
    ]
    same, rand = (_stems(parts[v]) for v in ("mixed_same", "mixed_rand"))
    pair, paired = (outcomes["mixed_same"], outcomes["mixed_rand"]), same == rand
    records += [
        record(name, metric(*pair, paired=paired), options={"paired": paired})
        for name, metric in (
            ("background_gap", metrics.background_gap),
            ("relative_background_gap", metrics.relative_background_gap),
        )
    ]
    if challenge_backgrounds:
        start = time.monotonic()
        stands = _challenge(classifier, parts, challenge_backgrounds, **running)
        options = {"backgrounds": min(challenge_backgrounds, len(parts["only_bg_t"]))}
        seconds = time.monotonic() - start
        estimate = metrics.accuracy(stands)
        records.append(record("challenge_accuracy", estimate, options=options, seconds=seconds))
    of_regions = region_records(
        classifier, parts["original"], REGIONS.changed(regions), key=key, **running
    )
    return records + [r for r in of_regions if r.metric != "accuracy"]


def _stems(table):
    """(class folder, object) of every image; mixed ones are named fg_<object>_bg_<background>."""
    return [
        (path.parent.name, path.stem.removeprefix("fg_").split("_bg_")[0])
        for path in table.columns["path"]
    ]


def _with_masks(root, paths, labels, change, allow_partial):
    """The Table of "original" with the object masks of fg_mask."""
    folder = root / "fg_mask" / "val"
    masks = [folder / path.parent.name / f"{path.stem}.npy" for path in paths]
    missing = [mask for mask in masks if not mask.is_file()]
    fault = missing_text(missing, len(masks), "masks")
    require_whole(fault, root, allow_partial=allow_partial)
    rows = [i for i, mask in enumerate(masks) if mask.is_file()]
    require(rows, f"{folder} has no mask of the images of original")
    return Table(
        len(IMAGENET9),
        functools.partial(_read_with_mask, change),
        path=[paths[i] for i in rows],
        mask_path=[masks[i] for i in rows],
        label=labels[rows],
    )


def _read_with_mask(change, row):
    content = io.BytesIO(read_bytes(row["mask_path"]))
    try:
        with ONE_AT_A_TIME:
            mask = np.load(content, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{row['mask_path']} is no readable mask: {error}") from error
    is_mask = mask.ndim == 2 and mask.dtype in (bool, np.uint8)
    require(is_mask, f"{row['mask_path']} is {mask.dtype} {mask.shape}; expected bool [h, w]")
    image, mask = open_file(row["path"]), Image.fromarray(255 * (mask > 0).astype(np.uint8))
    require(
        image.size == mask.size,
        f"{row['mask_path']} is {mask.size[0]} x {mask.size[1]}, its image "
        f"{image.size[0]} x {image.size[1]}: mask and image must have the same size",
    )
    return with_mask(image, mask, change, row["path"], row["mask_path"])


@jax.jit
def _correct_pasted(classifier, images, masks, labels, chosen, background):
    """[m]: `correct` on the chosen objects pasted on one background, bg (1 - m) + m fg."""
    mask = to_unit(masks[chosen])
    pasted = to_unit(background) * (1 - mask) + to_unit(images[chosen]) * mask
    return correct(classifier.logits(pasted), labels[chosen])


def _challenge(classifier, parts, num_backgrounds, *, batch_size, progress):
    """[n] bool: whether an object is right on all of the backgrounds, spread over the classes.

    An object that one background turned wrong is not tried again.
    """
    objects = parts["original"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        examples = list(pool.map(objects.__getitem__, range(len(objects))))
    images, masks, labels = (
        np.stack([example[name] for example in examples]) for name in ("image", "mask", "label")
    )
    images, masks, labels = replicate((images, masks, labels))
    batch_size = whole_batch(batch_size)
    backgrounds = parts["only_bg_t"]
    tried = spread(len(backgrounds), min(num_backgrounds, len(backgrounds)))
    stands = np.ones(len(objects), bool)
    for index in tried:
        background = backgrounds[index]["image"]
        alive = np.flatnonzero(stands)
        for start in range(0, len(alive), batch_size):
            chosen = alive[start : start + batch_size]
            padded = split_batch(np.resize(chosen, batch_size))  # one shape, one compilation
            found = _correct_pasted(classifier, images, masks, labels, padded, background)
            found = np.asarray(found)[: len(chosen)]
            require_finite("the model's logits on pasted objects", chosen, found)
            stands[chosen] = found == 1
        if progress is not None:
            progress.advance(len(objects))
    return stands
