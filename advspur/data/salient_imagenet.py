"""Salient ImageNet-1M (Singla, Moayeri & Feizi, 2022): ImageNet images with two masks each.

The soft masks show core and spurious neural features. A feature is spurious if at least 3 of 5
workers called it a separate object or background.
"""

import ast
import functools
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from advspur._checks import InputError, first_line, require
from advspur.data.csv_files import names_outside, read_rows, read_table, refuse_repeated
from advspur.data.files import MASKS, open_file
from advspur.data.label_maps import NUM_IMAGENET_CLASSES, imagenet_wnids
from advspur.data.layouts import missing_text, reader, require_data, require_whole
from advspur.data.table import Table
from advspur.data.transforms import STANDARD

DIRECTORIES = ("salient_imagenet_dataset", "salient_imagenet")
SIZES = {}
ANSWERS = "discover_spurious_features.csv"
LAYOUT = (
    "wordnet_dict.py, <wnid>/image_names_map.csv, <wnid>/feature_<index>/<stem>.JPEG, and the "
    f"workers' answers {ANSWERS} (of mturk_results/); or manifest.csv"
)
MANIFEST = ("image", "wnid", "core_masks", "spurious_masks")
NO_LITERAL = (AttributeError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError)
CORE_ANSWERS, SPURIOUS_ANSWERS = ("main_object",), ("separate_object", "background")


@reader
def read(root, allow_partial, *, image_dir="", legacy=False):
    """Return {"images": Table} of the images with a core mask; masks [224, 224, 2]: core, spurious.

    Several masks of a kind are joined by their maximum.

    Args:
      image_dir: ImageNet's train folder, with <wnid>/<stem>.JPEG; "": imagenet/train beside `root`.
      legacy: resize and crop the masks like the images, as the official loader does, although they
        are stored in the frame of the crop.
    """
    image_dir = Path(image_dir or root.parent / "imagenet" / "train").expanduser()
    is_listed = (root / "manifest.csv").is_file()
    is_release = (root / "wordnet_dict.py").is_file()
    require_data(is_listed or is_release, "Salient ImageNet", root, LAYOUT)
    rows = _read_manifest(root) if is_listed else _read_release(root, image_dir, allow_partial)
    rows = [(path, label, *masks) for path, label, *masks in rows if masks[0]]
    require_data(rows, "images with core masks", root, LAYOUT)
    complete, lacking = [], []
    for path, label, core, spurious in rows:
        missing = [str(file) for file in (path, *core, *spurious) if not file.is_file()]
        lacking += missing
        complete += [] if missing else [(path, label, core, spurious)]
    fault = f"{len(lacking)} image or mask files are missing, first {''.join(lacking[:1])}"
    advice = "unpack it again, or name ImageNet's train folder with --config.options."
    advice += "salient_imagenet.data.image_dir=DIR"
    require_whole(fault if lacking else "", root, allow_partial, advice=advice)
    require_data(complete, "complete images", root, LAYOUT)
    paths, labels, *masks = map(list, zip(*complete, strict=True))
    columns = {"path": paths, "label": np.array(labels)} | dict(zip(MASKS, masks, strict=True))
    load, transform = functools.partial(_load, legacy), [STANDARD, legacy]
    return {"images": Table(NUM_IMAGENET_CLASSES, load, transform=transform, **columns)}


def _load(legacy, row):
    masks = []
    for kind in MASKS:
        mask = np.zeros((224, 224), np.uint8)
        for path in row[kind]:
            stored = open_file(path, "L")
            size = f"{stored.size[0]} x {stored.size[1]}"
            require(size == "224 x 224", f"{path} is {size}; masks are 224 x 224")
            mask = np.maximum(mask, np.asarray(stored))
        masks.append(np.asarray(STANDARD(Image.fromarray(mask))) if legacy else mask)
    image = STANDARD.pixels(open_file(row["path"]), row["path"])
    return {"image": image, "mask": np.stack(masks, axis=-1)}


def _read_release(root, image_dir, allow_partial):
    """Return rows (path, label, core masks, spurious masks) of the official layout."""
    wnids = _read_wnids(root / "wordnet_dict.py")
    names = {wnid: root / wnid / "image_names_map.csv" for wnid in wnids.values()}
    missing = [wnid for wnid in imagenet_wnids() if wnid not in names or not names[wnid].is_file()]
    fault = missing_text(missing, NUM_IMAGENET_CLASSES, "classes")
    require_whole(fault, root, allow_partial)
    places = (root, root / "mturk_results", root.parent, root.parent / "mturk_results")
    answers = [folder / ANSWERS for folder in places if (folder / ANSWERS).is_file()]
    expected = f"{ANSWERS} there or in mturk_results/"
    require_data(answers, "Salient ImageNet answers", root, expected)
    is_spurious = read_answers(answers[0])
    rows = []
    for label, wnid in sorted(wnids.items()):
        file = names[wnid]
        masks = defaultdict(lambda: ([], []))
        for _, line in read_rows(file) if file.is_file() else ():
            for feature, stem in line.items():
                if not feature.isdigit() or not stem:
                    continue  # the unnamed index column; columns of unequal length
                place = (wnid, int(feature))
                require(place in is_spurious, f"{file}: no worker judged feature {feature}")
                stem = stem.removesuffix(".JPEG")
                require(stem == Path(stem).name, f"{file}: {stem} is outside the folder")
                mask = root / wnid / f"feature_{feature}" / f"{stem}.JPEG"
                masks[stem][is_spurious[place]].append(mask)
        rows += [(image_dir / wnid / f"{s}.JPEG", label, *m) for s, m in sorted(masks.items())]
    return rows


def read_answers(file):
    """Return {(wnid, feature index): whether at least 3 of 5 workers called it spurious}."""
    counts, workers = defaultdict(list), {}
    for number, line in read_rows(file):
        try:
            place = line["Input.wordnet_id"], int(line["Input.feature_index"])
            answer = line["Answer.main"]
        except (KeyError, ValueError) as error:
            raise InputError(f"{file} line {number} is damaged: {error!r}") from error
        known = CORE_ANSWERS + SPURIOUS_ANSWERS
        require(answer in known, f"{file} line {number}: answer {answer!r} is not one of {known}")
        if line.get("WorkerId"):
            before = workers.setdefault((line["WorkerId"], place), number)
            fault = f"{file} lines {before} and {number} are by one worker on one feature"
            require(before == number, fault)
        counts[place].append(answer in SPURIOUS_ANSWERS)
    return {place: sum(answers) >= 3 for place, answers in counts.items()}


def _read_wnids(file):
    """Return {index: wnid} from a Python dictionary literal, which is not executed."""
    text = file.read_text(errors="replace")
    try:
        literal = ast.literal_eval(text[text.index("{") : text.rindex("}") + 1])
        wnids = {int(index): str(wnid) for index, wnid in literal.items()}
    except NO_LITERAL as error:
        raise InputError(f"{file} is not a dictionary of wnids: {first_line(error)}") from error
    for index, wnid in wnids.items():
        known = 0 <= index < NUM_IMAGENET_CLASSES and imagenet_wnids()[index] == wnid
        require(known, f"{file}: class {index} is {wnid!r}, which is not its ImageNet wnid")
    return wnids


def _read_manifest(root):
    """Return rows of manifest.csv: paths relative to it, several masks of a kind joined by ";"."""
    file, labels = root / "manifest.csv", {wnid: i for i, wnid in enumerate(imagenet_wnids())}
    table, lines, _ = read_table(file)
    lacking = [name for name in MANIFEST if name not in table]
    has = f"{file} line 1 has no column {', '.join(lacking)}"
    require(not lacking, f"{has}; the columns are {', '.join(MANIFEST)}")
    rows = []
    for line, image, wnid, *masks in zip(lines, *(table[c] for c in MANIFEST), strict=True):
        require(wnid in labels, f"{file} line {line}: {wnid!r} is not one of ImageNet's 1000 wnids")
        masks = [[root / name for name in names.split(";") if name] for names in masks]
        rows.append((root / image, labels[wnid], *masks))
    refuse_repeated(file, table["image"], lines)
    if outside := names_outside(table["image"], lines):
        text = f"{file}: {len(outside)} images are outside its folder, first {outside[0]}"
        warnings.warn(text, stacklevel=2)
    return rows
