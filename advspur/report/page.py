"""report.html, a self-contained page with question, answer and evidence; its numbers as files."""

import base64
import csv
import io
import json
import math
from pathlib import Path

import jinja2

from advspur._checks import require
from advspur._files import read_json, write_whole
from advspur.records import COMPLETE, COUNTS, Record, read_records
from advspur.report.answer import answer_figure, answer_of, tally
from advspur.report.claims import CLAIMS, MASK_CLAIMS, findings
from advspur.report.color_shift import color_shift_findings
from advspur.report.examples import example_figures
from advspur.report.figures import save_figures, suite_figures
from advspur.report.glossary import WORDS, marker
from advspur.report.headlines import all_headlines, title_of
from advspur.report.matrix import models_matrix, trends_matrix
from advspur.report.predictions import (
    model_label,
    prediction_figure,
    prediction_findings,
    prediction_table,
    read_predictions,
)
from advspur.report.remedies import read_remedies, remedy_figures, remedy_table
from advspur.report.remedy_findings import remedy_findings
from advspur.report.suite import options_label, suite_of
from advspur.report.theory_claims import read_theory, theory_findings
from advspur.report.theory_figures import theory_figures

PREDICTED = "Does the linear theory predict what networks rely on?"
FEW = 5  # a column with at most this many numbers is read without plots
LINEAR = "Do the claims about the linear model hold?"


def write_report(directory):
    """Draw figures/ and report.html in a results directory; return the page's path.

    Reads whichever of these exist: records.jsonl, theory_*.npz, config.json, and predictions.json
    with the records of its settings. Writes the same numbers and verdicts to records.csv and
    claims.json. Raises InputError if there are no records, no theory and no network with a
    prediction.
    """
    directory = Path(directory)
    config = directory / "config.json"
    run = read_json(config) if config.exists() else None
    note = (run or {}).get("config", {}).get("note", "")
    records = read_records(directory / "records.jsonl")
    theory, comparison = read_theory(directory), read_predictions(directory)
    require(
        records or theory or comparison,
        f"{directory / 'records.jsonl'} holds no records: run scripts/reproduce.py or "
        "scripts/evaluate.py first",
    )
    numbers = [r for r in records if r.benchmark != "training" and r.metric != COMPLETE]
    suite = suite_of(numbers)
    remedies = [(r, list(remedy_findings(r))) for r in read_remedies(suite, directory)]
    trends = [*findings(suite, CLAIMS), *color_shift_findings(suite)]
    claims = {
        "trends": trends,
        "masks": findings(suite, MASK_CLAIMS),
        "remedies": [f for _, found in remedies for f in found],
        "predictions": list(prediction_findings(comparison)) if comparison else [],
        "theory": theory_findings(theory),
    }
    others = (PREDICTED, claims["predictions"]), (LINEAR, claims["theory"])
    answer = answer_of(suite, trends, others)

    def drawn(figures, note=""):
        return [_image(note, *saved) for saved in save_figures(figures, directory / "figures")]

    shown = {
        "answer_figure": drawn(answer_figure(answer)),
        "example_figures": drawn(example_figures(suite, directory)),
        "figures": _with_claims(drawn(suite_figures(suite), note), [*trends, *claims["masks"]]),
        "remedy_figures": drawn(remedy_figures([r for r, _ in remedies])),
        "prediction_figures": drawn(prediction_figure(comparison) if comparison else ()),
        "theory_figures": drawn(theory_figures(theory)),
    }
    marked = marker()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("advspur.report", "."), autoescape=True, trim_blocks=True
    )
    environment.globals.update(
        percent=_percent,
        tally=tally,
        marked=marked,
        glossary=lambda: [(w, meaning) for w, meaning in WORDS.items() if w in marked.seen],
        options_label=options_label,
        title_of=title_of,
        model_label=model_label,
        prediction_table=prediction_table,
        remedy_table=remedy_table,
        counts=COUNTS,
        few=FEW,
    )
    page = environment.get_template("page.html").render(
        title=directory.name,
        run=run,
        note=note,
        answer=answer,
        trends_matrix=trends_matrix(trends),
        models_matrix=models_matrix(suite) if suite.unknown() or not suite.norms() else None,
        claims=claims,
        models=[(m, _cost([r for r in records if r.model == m.name])) for m in suite.models],
        has_unknown=bool(suite.unknown()),
        headlines=_headlines(suite),
        remedies=remedies,
        comparison=comparison,
        numbers=[(m.name, [r for r in numbers if r.model == m.name]) for m in suite.models],
        num_records=len(numbers),
        directory=directory,
        **shown,
    )
    write_whole(directory / "records.csv", _csv(numbers))
    rows = [{"section": s} | f._asdict() for s, found in claims.items() for f in found]
    write_whole(directory / "claims.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    path = directory / "report.html"
    write_whole(path, page)
    return path


def _image(note, title, path, caption, rows=()):
    data = base64.b64encode(path.read_bytes()).decode()
    return {
        "src": f"data:image/png;base64,{data}",
        "title": title,
        "caption": f"{caption} {note}".strip(),
        "rows": rows,
    }


def _with_claims(figures, trends):
    """Attach to each figure the (number, Finding)s judged from it; the rest form a last section."""
    left = dict(enumerate(trends))
    for figure in figures:
        figure["claims"] = [(n, f) for n, f in left.items() if f.row in figure["rows"]]
        left = {n: f for n, f in left.items() if f.row not in figure["rows"]}
    if left:
        figures.append({"title": "Further claims", "claims": list(left.items())})
    return figures


def _headlines(suite):
    """The headlines recorded for any model, and one row per model.

    A cell is (value, interval, plotted), or None. In a column with more than FEW models `plotted`
    is (low, value, high) in percent of the range of the column.
    """
    found = [(h, [suite.estimate(h, m.name) for m in suite.models]) for h in all_headlines(suite)]
    kept = [(h, column) for h, column in found if any(e.num_examples for e in column)]
    columns = [[_cell(e, _span(column)) for e in column] for _, column in kept]
    rows = zip(*columns, strict=True) if kept else ()
    return {
        "columns": [(h.title, h.name) for h, _ in kept],
        "rows": list(zip((m.name for m in suite.models), rows, strict=False)),
    }


def _span(column):
    """The range that the intervals of a long column span, else None."""
    ends = [x for e in column for x in (e.low, e.high) if math.isfinite(x)]
    is_plotted = len(column) > FEW and ends and max(ends) > min(ends)
    return (min(ends), max(ends)) if is_plotted else None


def _cell(estimate, span):
    if not estimate.num_examples:
        return None
    plotted = None
    if span and all(map(math.isfinite, estimate)):
        ends = estimate.low, estimate.value, estimate.high
        plotted = [round(100 * (x - span[0]) / (span[1] - span[0]), 1) for x in ends]
    return *_percent(estimate), plotted


def _cost(records):
    """Seconds and memory of a model's training, and seconds of all its measures."""
    spent = {r.metric: r.value for r in records if r.benchmark == "training"}
    measured = [r.seconds for r in records if r.metric == COMPLETE]  # one for each measure
    return {
        "training": spent.get("seconds"),
        "evaluation": sum(measured) if measured else None,
        "memory": spent.get("peak_memory_mb"),
    }


def _percent(number):
    """(value, interval) of a Record or Estimate, as shown."""
    value, low, high = (f"{100 * x:.1f}" for x in (number.value, number.low, number.high))
    return value, f"[{low}, {high}]"


def _csv(records):
    """The records as a table with a column for each option; lists and recipes as JSON."""
    options = list(dict.fromkeys(name for r in records for name in r.options))
    fields = [name for name in Record._fields if name != "options"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*fields, *(f"option_{name}" for name in options)])
    for r in records:
        cells = [*(getattr(r, name) for name in fields), *map(r.options.get, options)]
        table.writerow([json.dumps(c) if isinstance(c, list | dict) else c for c in cells])
    return text.getvalue()
