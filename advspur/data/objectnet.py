"""ObjectNet (Barbu et al., NeurIPS 2019) on its 113 classes that overlap ImageNet.

Two scorings: "full" takes the prediction among all 1000 classes, and one outside of the overlap is
wrong; "subset" takes it among the 125 overlapping classes only. "full" is the headline, as
the paper compares with 1000-way ImageNet accuracy. The licence forbids tuning anything on it.
"""

import functools
from pathlib import Path

import jax.numpy as jnp

from advspur._checks import check_choice
from advspur.benchmarks import metrics
from advspur.benchmarks.predict import correct, for_each_example, logits, require_classes
from advspur.data.label_maps import NUM_IMAGENET_CLASSES, OBJECTNET, objectnet_map
from advspur.data.layouts import (
    file_table,
    list_classes,
    require_data,
    require_whole,
    without_unreadable,
)
from advspur.data.transforms import center_crop, resize_short
from advspur.models import PooledClassifier
from advspur.records import record

NUM_CLASSES = (NUM_IMAGENET_CLASSES,)
DIRECTORIES = ("objectnet-1.0", "objectnet", "ObjectNet")
LAYOUT = "images/<folder>/*.png (and mappings/, which is not needed), as the release unpacks"
BORDER = 2  # red pixels on each side of every image
RESIZES = (256, 224)
SIZES = {"images": 18_514}  # at least: those of version 1.0-beta


@functools.lru_cache(maxsize=1)
def load(data_dir, *, resize=256, allow_partial=False, skip_unreadable=False):
    """{"images": Table} of the overlapping classes, labelled by position in OBJECTNET.

    Args:
      resize: short side after the border is cut: 256 as for ImageNet, or 224 as the official
        template has it; the central 224 x 224 follows.
    """
    check_choice("resize", resize, RESIZES)
    root = Path(data_dir).expanduser() / "images"
    require_data(root.is_dir(), "ObjectNet", data_dir, LAYOUT)
    labels = {folder: label for label, folder in enumerate(OBJECTNET)}
    paths, numbers = list_classes(root, labels, allow_partial=allow_partial, ignore_others=True)
    fault = f"{len(paths):,} images, version 1.0-beta had {SIZES['images']:,}"
    fault = fault if len(paths) < SIZES["images"] else ""
    require_whole(fault, root, allow_partial=allow_partial)
    transform = functools.partial(_transform, short=resize)
    table = file_table(len(OBJECTNET), paths, numbers, transform)
    return without_unreadable({"images": table}, skip_unreadable)


def num_passes(data_dir, **options):
    """Forward passes over an image that `evaluate` makes."""
    return len(load(data_dir, **options)["images"])


def evaluate(
    classifier, data_dir, *, batch_size, key=None, progress=None, cache_dir=None, **options
):
    """`accuracy` per image and `balanced_accuracy` (mean over classes) under both scorings."""
    require_classes(classifier, NUM_CLASSES)
    groups = jnp.asarray(objectnet_map())
    scorings = {
        "full": PooledClassifier(classifier, groups, len(OBJECTNET)),
        "subset": PooledClassifier(classifier, groups, len(OBJECTNET), with_rest=False),
    }

    def outcomes(batch, _):
        found = logits(classifier, batch.image)
        return {name: correct(s.pool(found), batch.label) for name, s in scorings.items()}

    table = load(data_dir, **options)["images"]
    labels = table.columns["label"]
    found = for_each_example(outcomes, table, batch_size=batch_size, progress=progress)
    records = []
    for scoring, of_images in found.items():
        of_scoring = {"scoring": scoring}
        records += [
            record("accuracy", metrics.accuracy(of_images), options=of_scoring),
            record(
                "balanced_accuracy",
                metrics.balanced_accuracy(of_images, labels),
                options=of_scoring,
            ),
        ]
    return records


def _transform(image, short):
    width, height = image.size
    image = image.crop((BORDER, BORDER, width - BORDER, height - BORDER))
    return center_crop(resize_short(image, short), 224)
