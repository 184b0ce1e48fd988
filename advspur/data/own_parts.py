"""A user's data: the part of each row, rows without their files, and rows that show one object."""

import functools
import itertools
import os

import numpy as np

from advspur._checks import require
from advspur.data.layouts import require_whole

SPLITS = {
    "train": ("train", "training", "0"),
    "val": ("val", "valid", "validation", "dev", "1"),
    "test": ("test", "testing", "2"),
}
ALIASES = {alias: split for split, aliases in SPLITS.items() for alias in aliases}


def row_splits(rows):
    """Return [n] train, val, test or the name of a folder; without a split all rows are test."""
    if "split" not in rows.cells:
        rows.notes.append("no split is named: all rows are test")
        return ["test"] * len(rows.lines)
    texts = rows.cells["split"]
    splits = [ALIASES.get(text.casefold().removesuffix(".0")) for text in texts]
    if not any(rows.lines):  # folders
        splits = [split or text for split, text in zip(splits, texts, strict=True)]
        pairs = sorted(set(zip(splits, texts, strict=True)))
        second = ", ".join(b[1] for a, b in itertools.pairwise(pairs) if a[0] == b[0])
        require(not second, f"{rows.source} has two folders for one part, {second}: merge them")
    unknown = [i for i, split in enumerate(splits) if split is None]
    advice = "allowed: train (0), val (1, valid, validation, dev), test (2); other parts can be "
    rows.refuse(unknown, lambda i: f"split is {texts[i]!r}", advice + "read as columns.variant")
    return splits


def row_parts(rows, splits):
    """Return [n] the part of each row: split, variant, or <split>/<variant> of several splits."""
    variants = rows.cells.get("variant", [""] * len(splits))
    pairs = list(zip(splits, variants, strict=True))
    with_variant = {split for split, variant in pairs if variant}
    empty = [i for i, (split, variant) in enumerate(pairs) if not variant and split in with_variant]
    rows.refuse(empty, "variant is empty", "name one, like other rows of its split")
    one_split = len(set(splits)) == 1
    return [v if v and one_split else f"{s}/{v}" if v else s for s, v in pairs]


def part_order(part):
    """Return a sorting key: train, val, test, then the others."""
    split = part.split("/")[0]
    return [*SPLITS, split].index(split)


def evaluation_parts(parts):
    """Return the parts to evaluate: test, else val, and parts with other names; else train."""
    split_of = {name: name.split("/")[0] for name in parts}
    others = set(SPLITS) - {"test" if "test" in split_of.values() else "val"}
    return [name for name in parts if split_of[name] not in others] or list(parts)


def complete_rows(rows, part_of, allow_partial):
    """Return the numbers of the rows with all files; a part has masks for all its rows or none."""
    count = len(rows.lines)
    masks, spurious = (rows.cells.get(role, [""] * count) for role in ("mask", "spurious_mask"))
    with_mask = {part for part, mask in zip(part_of, masks, strict=True) if mask}
    lone = [i for i, name in enumerate(spurious) if name and part_of[i] not in with_mask]
    rows.refuse(lone, "a spurious_mask without a mask", "name the mask of the core too")
    missing = {}
    for i, files in enumerate(zip(rows.cells["image"], masks, spurious, strict=True)):
        paths = [os.path.join(rows.root, name) for name in files if name]
        absent = [path for path in paths if not os.path.isfile(path)]
        if not masks[i] and part_of[i] in with_mask:
            absent.append(f"the mask of {files[0]}")
        if absent:
            missing[i] = f"line {rows.lines[i]}: {absent[0]}" if rows.lines[i] else absent[0]
    fault = ""
    if missing:
        fault = f"{len(missing)} of {count} rows lack a file, first {next(iter(missing.values()))}"
        rows.notes.append(f"left out: {fault}")
    require_whole(fault, rows.source, allow_partial, advice="add the files")
    kept = [i for i in range(count) if i not in missing]
    empty = ", ".join(sorted(set(part_of) - {part_of[i] for i in kept}))
    require(not empty, f"{rows.source}: no row of {empty} is complete: {fault}")
    return kept


def align_pairs(parts, rows, allow_partial):
    """Return parts in which row i of each variant of a split shows the same object.

    Rows are in order of `pair`. A pair that some variant lacks is an error, or with `allow_partial`
    is left out.
    """
    by_split = {}
    for name, table in parts.items():
        if {"variant", "pair"} <= table.columns.keys():
            split = name.removesuffix(table.columns["variant"][0])
            by_split.setdefault(split, []).append(name)

    aligned = dict(parts)
    for names in by_split.values():
        pairs = {name: parts[name].columns["pair"] for name in names}
        common, alone = functools.reduce(np.intersect1d, pairs.values()), []
        for name, pair in pairs.items():
            index, first = parts[name].index, np.unique(pair, return_index=True)[1]
            twice = np.setdiff1d(np.arange(len(pair)), first)
            rows.refuse(index[twice].tolist(), f"its object is in {name} already", "renumber it")
            alone += index[~np.isin(pair, common)].tolist()
            kept = first[np.isin(pair[first], common)]
            aligned[name] = parts[name].subset(kept, skipped=parts[name].skipped)
            other = aligned[names[0]].columns["label"] != aligned[name].columns["label"]
            text = f"its label differs from that of its pair in {names[0]}"
            rows.refuse(index[kept[other]].tolist(), text, "an object has one label")
        if allow_partial and alone:
            rows.notes.append(f"left out: {len(alone)} rows whose pair is not in every variant")
            require(len(common), f"{rows.source}: no object is in all of {', '.join(names)}")
        else:
            advice = "add it, or leave such rows out with allow_partial"
            rows.refuse(sorted(alone), "its pair is not in every variant", advice)
    return aligned
