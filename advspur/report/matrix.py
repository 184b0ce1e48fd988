"""Verdicts in a matrix: claims by measure, or measures by model."""

from typing import NamedTuple

from advspur.report.evidence import evidence, judged_models, points_to


class Chip(NamedTuple):
    """One verdict in a cell of a matrix."""

    text: str
    look: str  # a class of the page
    detail: str = ""
    anchor: str = ""


class Matrix(NamedTuple):
    """Chips by row and column, in order of appearance."""

    columns: list
    rows: list  # (label, [the chips of each column])


def trends_matrix(trends):
    """The Matrix of the Findings that name a row and column; they link to `claim-N`."""
    columns = list(dict.fromkeys(f.column for f in trends if f.row))
    rows = {f.row: {} for f in trends if f.row}
    for number, f in enumerate(trends):
        if f.row:
            text = f"{f.norm} {f.kind.removeprefix('holds ')}".strip()
            chip = Chip(text, f.kind.replace(" ", "-"), f.statement, f"claim-{number}")
            rows[f.row].setdefault(f.column, []).append(chip)
    return Matrix(columns, [(r, [cells.get(c, []) for c in columns]) for r, cells in rows.items()])


def models_matrix(suite):
    """The Matrix of the evidence about single models: one row per number, one column per model."""
    names = judged_models(suite)

    def cell(headline, name):
        verdict = points_to(suite, headline, name)
        number = shown(suite.estimate(headline, name), headline)
        return [Chip(f"{verdict}: {number}", verdict)] if verdict else []

    return Matrix(names, [(x.label, [cell(x, n) for n in names]) for x in evidence(suite)])


def shown(estimate, headline):
    """A number with its unit and interval, e.g. 6.3 points [5.1, 7.5]."""
    value, low, high = (f"{100 * x:.1f}" for x in estimate[:3])
    unit = "%" if headline.unit == "%" else f" {headline.unit}"
    return f"{value}{unit} [{low}, {high}]"
