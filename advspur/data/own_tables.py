"""A user's tables: the header gives each column a role. Cells stay texts here."""

from pathlib import Path
from typing import NamedTuple

from advspur._checks import InputError, require
from advspur.data.csv_files import read_table
from advspur.data.files import read_bytes

FORMATS = {  # their columns of image and label
    "a manifest": ("image", "label"),
    "the metadata of WILDS and group DRO": ("img_filename", "y"),
    "the metadata of SubpopBench": ("filename", "y"),
}
ROLES = ("image", "label", "split", "variant", "pair", "mask", "spurious_mask")
# Names that an attribute cannot have: columns and arguments of Table, keys of examples.
RESERVED = ("path", "line", "group", "is_majority", "mask_path", "spurious_mask_path", "index")
RESERVED += ("names", "load", "num_classes", "image_size", "root", "files", "transform")
RESERVED += ("read_mask", *ROLES)
MOST_VALUES = 100  # of a column that becomes an attribute without being named
CELEBA = "list_attr_celeba"


class Rows(NamedTuple):
    """The rows of a table or a folder: what it says about n images."""

    source: Path  # the table, or the folder
    root: Path  # the folder that file names are relative to
    cells: dict  # {role or attribute: [n] texts}
    lines: list  # [n] line numbers in the table; 0 if there is no table
    names: dict  # {"label" or attribute: names of its values 0, 1, ...}, if the format has them
    notes: list  # lines for the user on how the table was read

    def where(self, row):
        """Return the row's place, as errors name it."""
        if self.lines[row]:
            return f"{self.source} line {self.lines[row]}"
        return str(self.root / self.cells["image"][row])

    def refuse(self, faults, text, advice):
        """Raise InputError unless `faults`, a list of rows, is empty; `text` may be a function of
        the first row."""
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            text = text(faults[0]) if callable(text) else text
            raise InputError(f"{self.where(faults[0])}: {text}{more}; {advice}")

    def subset(self, kept):
        """Return the Rows numbered in the list `kept`."""
        cells = {name: [column[i] for i in kept] for name, column in self.cells.items()}
        return self._replace(cells=cells, lines=[self.lines[i] for i in kept])


def table_rows(file, columns):
    """Return Rows of a csv table, given `columns` {role: name of its column, "attributes": names}.

    Other roles follow from the header. If no attributes are given, they are the other columns with
    2 to 100 values that are not all different.
    """
    table, lines, notes = read_table(file)
    chosen = _chosen(columns)
    by_option = {role: name for role, name in columns.items() if role != "attributes"}
    header = ", ".join(name or "(no name)" for name in table)
    for name in (*by_option.values(), *chosen):
        require(name in table, f"{file} line 1 has no column {name!r}; it has {header}")
    free, fitting = table.keys() - set(by_option.values()), {}
    for kind, names in FORMATS.items():
        named = zip(ROLES, (*names, *ROLES[2:]), strict=True)
        roles = {role: name for role, name in named if name in free} | by_option
        if {"image", "label"} <= roles.keys():
            fitting[kind] = roles
    known = ", or ".join(map(" and ".join, FORMATS.values()))
    advice = f"name them with columns.image and columns.label; it has {header}"
    require(fitting, f"{file} line 1 has no image and label columns ({known}): {advice}")
    kind, roles = next(iter(fitting.items()))
    bad = ", ".join(name for name in chosen if name in (*RESERVED, *roles.values()))
    require(not bad, f"{file} line 1: {bad} cannot be an attribute; rename the column")
    rest = {name: _why_ignored(name, table[name]) for name in table if name not in roles.values()}
    attributes = chosen or tuple(name for name, why in rest.items() if not why)
    unused = {name: why for name, why in rest.items() if name not in attributes}
    ignored = ", ".join(f"{n or '(no name)'} ({w or 'not chosen'})" for n, w in unused.items())
    notes.append(f"{file} is read as {kind}: {', '.join(f'{r} = {n}' for r, n in roles.items())}")
    notes += [f"ignored columns: {ignored}"] if ignored else []
    cells = {role: table[name] for role, name in roles.items()}
    cells |= {name: table[name] for name in attributes}
    return Rows(file, file.parent, cells, lines, {}, notes)


def _chosen(columns):
    """Return the attributes that the options name."""
    names = columns.get("attributes", ())
    return (names,) if isinstance(names, str) else tuple(names)


def _why_ignored(name, cells):
    """Return why a column is not an attribute; "" if it is one."""
    count = len(set(cells))
    if not name or name in RESERVED:
        return "not an attribute's name"
    if 1 < count <= MOST_VALUES and count < len(cells):
        return ""
    return f"{count:,} values" if count > 1 else "one value"


def celeba_rows(file, columns):
    """Return Rows of CelebA's attribute list, with a label and attributes among its 40 columns."""
    table, lines = _celeba_list(file)
    label, chosen = columns.get("label", ""), _chosen(columns)
    others = ", ".join(role for role in columns if role not in ("label", "attributes"))
    require(not others, f"columns.{others} does not fit {file}: allowed: label, attributes")
    names = [name for name in table if name != "image_id"]
    unknown = ", ".join(repr(name) for name in (label, *chosen) if name not in names)
    has = f"{file} has {len(names)} attributes{f', but not {unknown}' if label else ''}"
    advice = "choose columns.label (as Blond_Hair) and columns.attributes (as Male) among "
    require(not unknown, f"{has}: {advice}{', '.join(names)}")
    notes = [f"{file} is read as the attribute list of CelebA: label = {label}"]
    notes += [] if chosen else ["no attribute is chosen: groups need columns.attributes, as Male"]
    rows = Rows(file, file.parent, {"image": table["image_id"]}, lines, {}, notes)
    for name, value in (("label", label), *((name, name) for name in chosen)):
        texts = table[value]
        bad = [i for i, text in enumerate(texts) if text not in ("-1", "0", "1")]
        rows.refuse(bad, lambda i, v=value, t=texts: f"{v} is {t[i]!r}", "it must be -1 or 1")
        rows.cells[name] = [str(int(text == "1")) for text in texts]
        rows.names[name] = (f"not {value}", value)
    partition = file.with_name(f"list_eval_partition{file.suffix}")
    if partition.is_file():
        splits, split_lines = _celeba_list(partition, ("image_id", "partition"))
        other, texts = rows._replace(source=partition, lines=split_lines), splits["partition"]
        bad = [i for i, text in enumerate(texts) if text not in ("0", "1", "2")]
        other.refuse(bad, lambda i: f"partition is {texts[i]!r}", "it is 0, 1 or 2")
        split_of, images = dict(zip(splits["image_id"], texts, strict=True)), rows.cells["image"]
        bad = [i for i, image in enumerate(images) if image not in split_of]
        rows.refuse(bad, lambda i: f"{images[i]} is not in {partition}", "add it there")
        rows.cells["split"] = [split_of[image] for image in images]
        notes.append(f"the splits are those of {partition}")
    return rows


def _celeba_list(file, header=()):
    """Return ({column: texts}, line numbers) of a list of CelebA: csv, or the release's text."""
    if file.suffix == ".csv":
        table, lines, _ = read_table(file)
        for name in header or ("image_id",):
            require(name in table, f"{file} line 1 has no column {name!r}")
        return table, lines
    words = [line.split() for line in read_bytes(file).decode("utf-8", "replace").splitlines()]
    start = 0 if header else 2  # skip the count and the names
    require(len(words) > start, f"{file} has no rows")
    header = header or ("image_id", *words[1])
    rows = {number: w for number, w in enumerate(words, start=1) if number > start and w}
    for number, row in rows.items():
        text = f"{file} line {number} has {len(row)} words, not {len(header)}"
        require(len(row) == len(header), text)
    return dict(zip(header, map(list, zip(*rows.values(), strict=True)), strict=True)), list(rows)
