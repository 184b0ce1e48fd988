"""Salient ImageNet-1M (Singla, Moayeri & Feizi, 2022): ImageNet images with two masks each.

Soft masks of core and spurious neural features. A feature is spurious where at least 3 of 5 workers
called it a separate object or background.
"""

import ast
import functools
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from advspur._checks import InputError, first_line, require
from advspur.data.label_maps import NUM_IMAGENET_CLASSES, imagenet_wnids
from advspur.data.layouts import (
    missing_text,
    names_outside,
    open_file,
    read_rows,
    require_data,
    require_whole,
    standard_transform,
    without_unreadable,
)
from advspur.data.table import Table

DIRECTORIES = ("salient_imagenet_dataset", "salient_imagenet")
SIZES = {}
ANSWERS = "discover_spurious_features.csv"
LAYOUT = (
    "wordnet_dict.py, <wnid>/image_names_map.csv, <wnid>/feature_<index>/<stem>.JPEG, and the "
    f"workers' answers {ANSWERS} (of mturk_results/); or manifest.csv"
)
MANIFEST = ("image", "wnid", "core_masks", "spurious_masks")
SPURIOUS_ANSWERS = ("separate_object", "background")


@functools.lru_cache(maxsize=1)
def read(data_dir, *, image_dir="", legacy=False, allow_partial=False, skip_unreadable=False):
    """{"images": Table} of the images with a core mask; masks [224, 224, 2]: core, spurious.

    Several masks of a kind are joined by their maximum.

    Args:
      image_dir: ImageNet's train folder, with <wnid>/<stem>.JPEG; "": `imagenet/train` beside
        `data_dir`.
      legacy: resize and crop the masks like the images, as the official loader does, though they
        are stored in the frame of the crop already.
    """
    root = Path(data_dir).expanduser()
    image_dir = Path(image_dir or root.parent / "imagenet" / "train").expanduser()
    is_listed = (root / "manifest.csv").is_file()
    is_release = (root / "wordnet_dict.py").is_file()
    require_data(is_listed or is_release, "Salient ImageNet", root, LAYOUT)
    rows = _read_manifest(root) if is_listed else _read_release(root, image_dir, allow_partial)
    rows = [row for row in rows if row["core"]]
    require_data(rows, "images with core masks", root, LAYOUT)
    whole, first, files = [], None, 0
    for row in rows:
        lacking = [f for f in (row["path"], *row["core"], *row["spurious"]) if not f.is_file()]
        files += len(lacking)
        first = first or next(iter(lacking), None)
        whole += [] if lacking else [row]
    fault = f"{files} image or mask files are missing, first {first}" if files else ""
    advice = (
        "unpack it again, or name ImageNet's train folder with "
        "--config.options.salient_imagenet.data.image_dir=DIR"
    )
    require_whole(fault, root, allow_partial=allow_partial, advice=advice)
    require_data(whole, "complete images", root, LAYOUT)
    columns = {name: [row[name] for row in whole] for name in ("path", "core", "spurious")}
    labels = np.array([row["label"] for row in whole])
    load = functools.partial(_read, legacy)
    table = Table(NUM_IMAGENET_CLASSES, load, has_mask=True, label=labels, **columns)
    return without_unreadable({"images": table}, skip_unreadable)


def _read(legacy, row):
    image = open_file(row["path"])
    masks = []
    for kind in ("core", "spurious"):
        mask = np.zeros((224, 224), np.uint8)
        for path in row[kind]:
            stored = open_file(path, "L")
            require(
                stored.size == (224, 224),
                f"{path} is {stored.size[0]} x {stored.size[1]}; masks are 224 x 224",
            )
            mask = np.maximum(mask, np.asarray(stored))
        if legacy:
            mask = np.asarray(standard_transform(Image.fromarray(mask)))
        masks.append(mask)
    return {"image": np.asarray(standard_transform(image)), "mask": np.stack(masks, axis=-1)}


def _read_release(root, image_dir, allow_partial):
    """Rows (path, label, core, spurious) of the official layout."""
    wnids = _read_wnids(root / "wordnet_dict.py")
    names = {wnid: root / wnid / "image_names_map.csv" for wnid in wnids.values()}
    missing = [wnid for wnid in imagenet_wnids() if wnid not in names or not names[wnid].is_file()]
    fault = missing_text(missing, NUM_IMAGENET_CLASSES, "classes")
    require_whole(fault, root, allow_partial=allow_partial)
    spurious = read_answers(_find_answers(root))
    rows = []
    for label, wnid in sorted(wnids.items()):
        file = names[wnid]
        if not file.is_file():
            continue
        masks = defaultdict(lambda: {"core": [], "spurious": []})
        for line in read_rows(file):
            for feature, stem in line.items():
                if not (feature or "").isdigit() or not stem:
                    continue  # the unnamed index column; columns of unequal length
                place = (wnid, int(feature))
                require(place in spurious, f"{file}: no worker answered on feature {feature}")
                kind = "spurious" if spurious[place] else "core"
                stem = stem.removesuffix(".JPEG")
                require(stem == Path(stem).name, f"{file}: {stem} is outside the folder")
                masks[stem][kind].append(root / wnid / f"feature_{feature}" / f"{stem}.JPEG")
        for stem, of_image in sorted(masks.items()):
            rows.append({"path": image_dir / wnid / f"{stem}.JPEG", "label": label} | of_image)
    return rows


def read_answers(file):
    """(wnid, feature index) -> whether at least 3 of 5 workers called the feature spurious."""
    counts, workers = defaultdict(list), {}
    for number, line in enumerate(read_rows(file), start=2):
        try:
            place = line["Input.wordnet_id"], int(line["Input.feature_index"])
            answer = line["Answer.main"]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file} line {number} is damaged: {error!r}") from error
        known = ("main_object", *SPURIOUS_ANSWERS)
        require(answer in known, f"{file} line {number}: answer {answer!r} is none of {known}")
        if line.get("WorkerId"):
            before = workers.setdefault((line["WorkerId"], place), number)
            require(before == number, f"{file} lines {before} and {number} are one worker's")
        counts[place].append(answer in SPURIOUS_ANSWERS)
    return {place: sum(answers) >= 3 for place, answers in counts.items()}


def _find_answers(root):
    places = (root, root / "mturk_results", root.parent, root.parent / "mturk_results")
    found = [folder / ANSWERS for folder in places if (folder / ANSWERS).is_file()]
    require_data(found, "Salient ImageNet answers", root, f"{ANSWERS} there or in mturk_results/")
    return found[0]


def _read_wnids(file):
    """index -> wnid of a Python dictionary literal, which is not executed."""
    text = file.read_text(errors="replace")
    try:
        found = ast.literal_eval(text[text.index("{") : text.rindex("}") + 1])
        wnids = {int(index): str(wnid) for index, wnid in found.items()}
    except (
        AttributeError,
        MemoryError,
        RecursionError,
        SyntaxError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(f"{file} is no dictionary of wnids: {first_line(error)}") from error
    for index, wnid in wnids.items():
        known = 0 <= index < NUM_IMAGENET_CLASSES and imagenet_wnids()[index] == wnid
        require(known, f"{file}: class {index} is {wnid!r}, which is not its ImageNet wnid")
    return wnids


def _read_manifest(root):
    """Rows of manifest.csv: paths relative to it, several masks of a kind joined by ";"."""
    file, rows = root / "manifest.csv", []
    lines = read_rows(file)
    labels = {wnid: index for index, wnid in enumerate(imagenet_wnids())}
    columns = ", ".join(MANIFEST)
    for number, line in enumerate(lines, start=2):
        good = all(line.get(c) is not None for c in MANIFEST) and line["wnid"] in labels
        require(good, f"{file} line {number}: the columns are {columns}, with an ImageNet wnid")
        core, spurious = (
            [root / name for name in line[c].split(";") if name] for c in MANIFEST[2:]
        )
        masks = {"core": core, "spurious": spurious}
        rows.append({"path": root / line["image"], "label": labels[line["wnid"]]} | masks)
    outside = names_outside(file, [line["image"] for line in lines])
    if outside:
        text = f"{file}: {len(outside)} images are outside its folder, first {outside[0]}"
        warnings.warn(text, stacklevel=2)
    return rows
