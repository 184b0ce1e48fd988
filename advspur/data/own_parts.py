"""Users' own data: which rows make which part, which are whole, and which show one object."""

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
    """[n] train, val or test, or the name of a folder; test where the rows name none."""
    if "split" not in rows.cells:
        rows.notes.append("no split is named: all rows are test")
        return ["test"] * len(rows.lines)
    texts = rows.cells["split"]
    splits = [ALIASES.get(text.casefold().removesuffix(".0")) for text in texts]
    if not any(rows.lines):  # folders
        splits = [split or text for split, text in zip(splits, texts, strict=True)]
        pairs = sorted(set(zip(splits, texts, strict=True)))
        joined = ", ".join(b[1] for a, b in itertools.pairwise(pairs) if a[0] == b[0])
        require(not joined, f"{rows.source} has two folders for one part, {joined}: join them")
    unknown = [i for i, split in enumerate(splits) if split is None]
    advice = "allowed: train (0), val (1, valid, validation, dev), test (2); other parts can be "
    rows.refuse(unknown, lambda i: f"split is {texts[i]!r}", advice + "read as columns.variant")
    return splits


def row_parts(rows, splits):
    """[n] the part of each row: its split, its variant, or <split>/<variant> of several splits."""
    variants = rows.cells.get("variant", [""] * len(splits))
    pairs = list(zip(splits, variants, strict=True))
    with_variant = {split for split, variant in pairs if variant}
    empty = [i for i, (split, variant) in enumerate(pairs) if not variant and split in with_variant]
    rows.refuse(empty, lambda _: "variant is empty", "name one, as other rows of its split do")
    one_split = len(set(splits)) == 1
    return [v if v and one_split else f"{s}/{v}" if v else s for s, v in pairs]


def part_order(part):
    """Sorting key: train, val, test, then the others."""
    split = part.split("/")[0]
    return [*SPLITS, split].index(split)


def evaluation_parts(parts):
    """The names of the parts to evaluate: test, else val, and parts of other names; else train."""
    split_of = {name: name.split("/")[0] for name in parts}
    others = set(SPLITS) - {"test" if "test" in split_of.values() else "val"}
    return [name for name in parts if split_of[name] not in others] or list(parts)


def whole_rows(rows, part_of, allow_partial):
    """Numbers of the rows whose files are there; where some of a part have masks, all need one."""
    count = len(rows.lines)
    masks, spurious = (rows.cells.get(role, [""] * count) for role in ("mask", "spurious_mask"))
    with_mask = {part for part, mask in zip(part_of, masks, strict=True) if mask}
    lone = [i for i, name in enumerate(spurious) if name and part_of[i] not in with_mask]
    rows.refuse(lone, lambda _: "a spurious_mask without a mask", "name the mask of the core too")
    missing = {}
    for i, files in enumerate(zip(rows.cells["image"], masks, spurious, strict=True)):
        paths = [os.path.join(rows.root, name) for name in files if name]
        lost = [path for path in paths if not os.path.isfile(path)]
        if not masks[i] and part_of[i] in with_mask:
            lost.append(f"the mask of {files[0]}")
        if lost:
            missing[i] = f"line {rows.lines[i]}: {lost[0]}" if rows.lines[i] else lost[0]
    fault = ""
    if missing:
        fault = f"{len(missing)} of {count} rows lack a file, first {next(iter(missing.values()))}"
        rows.notes.append(f"left out: {fault}")
    require_whole(fault, rows.source, allow_partial, advice="add the files")
    kept = [i for i in range(count) if i not in missing]
    lost = sorted(set(part_of) - {part_of[i] for i in kept})
    require(not lost, f"{rows.source}: nothing is left of {', '.join(lost)}: {fault}")
    return kept


def align_pairs(parts, rows, allow_partial):
    """Parts in which row i of each variant of a split shows the same object, in order of `pair`.

    What a variant lacks is left out where `allow_partial`, else an error.
    """
    by_split = {}
    for name, table in parts.items():
        if {"variant", "pair"} <= table.columns.keys():
            split = name.removesuffix(table.columns["variant"][0])
            by_split.setdefault(split, []).append(name)

    def refuse(name, chosen, text, advice):
        rows.refuse(parts[name].index[chosen].tolist(), lambda _: text, advice)

    aligned = dict(parts)
    for names in by_split.values():
        pairs = {name: parts[name].columns["pair"] for name in names}
        common, alone = functools.reduce(np.intersect1d, pairs.values()), []
        for name, pair in pairs.items():
            first = np.unique(pair, return_index=True)[1]
            twice = np.setdiff1d(np.arange(len(pair)), first)
            refuse(name, twice, f"its object is in {name} already", "renumber it")
            alone += parts[name].index[~np.isin(pair, common)].tolist()
            kept = first[np.isin(pair[first], common)]
            aligned[name] = parts[name].subset(kept, skipped=parts[name].skipped)
            other = aligned[names[0]].columns["label"] != aligned[name].columns["label"]
            text = f"its label is not that of its pair in {names[0]}"
            refuse(name, kept[other], text, "one object has one label")
        if allow_partial and alone:
            rows.notes.append(f"left out: {len(alone)} rows whose pair not all variants have")
            require(len(common), f"{rows.source}: no object is in all of {', '.join(names)}")
        else:
            advice = "add it, or leave out such rows with allow_partial"
            rows.refuse(sorted(alone), lambda _: "its pair is not in every variant", advice)
    return aligned
