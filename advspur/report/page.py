"""report.html: one self-contained page of what was run, found, and what it cost."""

import base64
from pathlib import Path

import jinja2

from advspur._checks import require
from advspur._files import read_json, write_whole
from advspur.records import COMPLETE, COUNTS, read_records
from advspur.report.claims import CLAIMS, MASK_CLAIMS, findings
from advspur.report.color_shift import color_shift_findings
from advspur.report.figures import save_figures, suite_figures
from advspur.report.headlines import HEADLINES, own_headlines, title_of
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


def write_report(directory):
    """Draw figures/ and report.html of a directory with results; return the page's path.

    Reads records.jsonl, theory_*.npz, config.json, and predictions.json with the records of its
    settings, whichever are there. Raises InputError where there are none of the first two and no
    network with a prediction.
    """
    directory = Path(directory)
    records = read_records(directory / "records.jsonl")
    theory, comparison = read_theory(directory), read_predictions(directory)
    require(
        records or theory or comparison,
        f"{directory / 'records.jsonl'} holds no records: run scripts/reproduce.py or "
        "scripts/evaluate.py first",
    )
    numbers = [r for r in records if r.benchmark != "training" and r.metric != COMPLETE]
    suite = suite_of(numbers)
    figures = save_figures(suite_figures(suite), directory / "figures")
    drawn = save_figures(theory_figures(theory), directory / "figures")
    remedies = read_remedies(suite, directory)
    helping = save_figures(remedy_figures(remedies), directory / "figures")
    compared = save_figures(
        prediction_figure(comparison) if comparison else (), directory / "figures"
    )
    config = directory / "config.json"
    run = read_json(config) if config.exists() else None
    note = (run or {}).get("config", {}).get("note", "")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("advspur.report", "."), autoescape=True, trim_blocks=True
    )
    shown = {
        "percent": _percent,
        "options_label": options_label,
        "title_of": title_of,
        "model_label": model_label,
        "prediction_findings": prediction_findings,
        "prediction_table": prediction_table,
        "remedy_findings": remedy_findings,
        "remedy_table": remedy_table,
    }
    environment.globals.update(shown, counts=COUNTS)
    page = environment.get_template("page.html").render(
        title=directory.name,
        run=run,
        note=note,
        models=[(m, _cost([r for r in records if r.model == m.name])) for m in suite.models],
        has_unknown=bool(suite.unknown()),
        trends=[*findings(suite, CLAIMS), *color_shift_findings(suite)],
        mask_trends=findings(suite, MASK_CLAIMS),
        headlines=_headlines(suite),
        figures=[_image(title, path, f"{caption} {note}") for title, path, caption in figures],
        claims=theory_findings(theory),
        theory_figures=[_image(*figure) for figure in drawn],
        remedies=remedies,
        remedy_figures=[_image(*figure) for figure in helping],
        comparison=comparison,
        prediction_figures=[_image(*figure) for figure in compared],
        numbers=[(m.name, [r for r in numbers if r.model == m.name]) for m in suite.models],
        num_records=len(numbers),
        directory=directory,
    )
    path = directory / "report.html"
    write_whole(path, page)
    return path


def _image(title, path, caption):
    data = base64.b64encode(path.read_bytes()).decode()
    return {"src": f"data:image/png;base64,{data}", "caption": caption, "title": title}


def _headlines(suite):
    """The headlines that any model has, and a row a model: (value, interval), or None, of each."""
    headlines = [*HEADLINES, *(h for own in own_headlines(suite).values() for h in own)]
    found = [(h, [suite.estimate(h, m.name) for m in suite.models]) for h in headlines]
    kept = [(h, column) for h, column in found if any(e.num_examples for e in column)]
    return {
        "columns": [(h.title, h.name) for h, _ in kept],
        "rows": [
            (m.name, [_percent(e) if e.num_examples else None for e in row])
            for m, *row in zip(suite.models, *(column for _, column in kept), strict=True)
        ],
    }


def _cost(records):
    """The seconds and the memory of a model's training, and the seconds of all its measures."""
    spent = {r.metric: r.value for r in records if r.benchmark == "training"}
    measured = [r.seconds for r in records if r.metric == COMPLETE]  # one for each measure
    return {
        "training": spent.get("seconds"),
        "evaluation": sum(measured) if measured else None,
        "memory": spent.get("peak_memory_mb"),
    }


def _percent(number):
    """The value and the interval of a Record or Estimate as shown."""
    value, low, high = (f"{100 * x:.1f}" for x in (number.value, number.low, number.high))
    return value, f"[{low}, {high}]"
