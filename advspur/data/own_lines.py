"""What was found in users' own data, in lines: parts, classes, groups."""

from advspur.data.groups import attributes, group_codes, group_counts, group_names
from advspur.data.own_parts import evaluation_parts

MOST_SHOWN = 40  # groups, and classes, of a description


def describe(parts):
    """Lines on the parts, classes and groups of {part: Table}."""
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
