"""What was found in users' own data, in lines: parts, classes, groups, what can be measured."""

from advspur.data.groups import attributes, group_codes, group_counts, group_names
from advspur.data.own_parts import evaluation_parts

MOST_SHOWN = 40  # groups, and classes, of a description
MEASURES = {  # what is measured: the column, or part, that it needs
    "accuracy, and under attack": "label",
    "accuracy of groups": "attribute",
    "majority - minority gap": "is_majority",
    "accuracy of variants": "variant",
    "paired gaps of variants": "pair",
    "RFS and RCS under noise": "mask",
    "sensitivity of spurious regions": "spurious_mask",
}
NEEDS = {
    "attribute": "no column of an attribute",
    "is_majority": "needs an attribute, and train or majority=...",
    "variant": "no column variant",
    "pair": "no columns variant and pair",
    "mask": "no column mask",
    "spurious_mask": "no column spurious_mask",
    "linear probe": "no part train to fit it on",
}


def describe(parts):
    """Lines on the parts, classes and groups of {part: Table}, and on what can be measured."""
    first = next(iter(parts.values()))
    sizes = ", ".join(f"{name} {len(table):,}" for name, table in parts.items())
    classes = [str(name) for name in _label_names(first)[:MOST_SHOWN]]
    more = ", ..." * (first.num_classes > MOST_SHOWN)
    numbered = ", ".join(
        f"{i} {name}" if name != str(i) else name for i, name in enumerate(classes)
    )
    return [
        f"parts: {sizes}; evaluated: {', '.join(evaluation_parts(parts))}",
        f"{first.num_classes:,} classes: {numbered}{more}",
        *_group_lines(parts),
        *_measure_lines(parts),
    ]


def _label_names(table):
    return table.names.get("label") or range(table.num_classes)


def _group_lines(parts):
    """A table of the groups' counts in each part."""
    first = next(iter(parts.values()))
    counts = [group_counts(table) for table in parts.values()]
    if not attributes(first):
        sizes = (f"{p} {c.min():,} to {c.max():,}" for p, c in zip(parts, counts, strict=True))
        return [f"images of a class: {', '.join(sizes)}"]
    majority = {
        int(group)
        for table in parts.values()
        for group in group_codes(table)[table.columns.get("is_majority", [])]
    }
    table = [[f"groups, {' x '.join(('label', *attributes(first)))}", *parts, ""]]
    for group, name in enumerate(group_names(first)[:MOST_SHOWN]):
        numbers = [f"{of_part[group]:,}" for of_part in counts]
        table.append([name, *numbers, "majority" if group in majority else ""])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for name, *numbers, mark in table:
        cells = [n.rjust(width) for n, width in zip(numbers, widths[1:], strict=False)]
        lines.append("  ".join([name.ljust(widths[0]), *cells, mark]).rstrip())
    hidden = len(counts[0]) - MOST_SHOWN
    return lines + [f"... and {hidden:,} groups more"] * (hidden > 0)


def _measure_lines(parts):
    """Which measures apply, and what the others lack."""
    evaluated = [parts[name].columns for name in evaluation_parts(parts)]
    have = {"label"} | set.union(*map(set, evaluated))
    have |= {"attribute"} if attributes(next(iter(parts.values()))) else set()
    have |= {name.removesuffix("_path") for name in have}
    have -= set() if "variant" in have else {"pair"}
    have |= {"variant"} if len(evaluated) > 1 else set()
    able = [measure for measure, need in MEASURES.items() if need in have]
    lacking = [f"{m} ({NEEDS[need]})" for m, need in MEASURES.items() if need not in have]
    is_fit = any(name.split("/")[0] == "train" for name in parts)
    lacking += [] if is_fit else [f"heads fitted to the data ({NEEDS['linear probe']})"]
    lines = [f"can be measured: {'; '.join(able)}"]
    return lines + [f"cannot: {'; '.join(lacking)}"] * bool(lacking)
