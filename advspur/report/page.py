"""report.html: one self-contained page of what was run, found, and what it cost."""

import base64
import collections
from pathlib import Path

import jinja2

from advspur._checks import require
from advspur._files import read_json, write_whole
from advspur.records import COMPLETE, COUNTS, read_records
from advspur.report.claims import claims
from advspur.report.color_shift import color_shift_trends
from advspur.report.figures import draw_figures
from advspur.report.measures import HEADLINES, TITLES
from advspur.report.own import own_measures
from advspur.report.suite import (
    UNKNOWN,
    budget_label,
    norm_label,
    options_label,
    rhos_of,
    suite_of,
    training_label,
)
from advspur.report.theory_figures import draw_theory
from advspur.report.trends import mask_trends, trends


def write_report(directory):
    """Draw figures/ and report.html of a directory with results; return the page's path.

    Reads records.jsonl, theory_*.npz and config.json, whichever are there. Raises InputError
    where there are neither records nor theory.
    """
    directory = Path(directory)
    records = read_records(directory / "records.jsonl")
    theory_figures = draw_theory(directory)
    require(
        records or theory_figures,
        f"{directory / 'records.jsonl'} holds no records: run scripts/reproduce.py or "
        "scripts/evaluate.py first",
    )
    cost = [r for r in records if r.benchmark == "training"]
    evaluation = collections.Counter()
    for r in records:
        if r.metric == COMPLETE:  # one for each measure
            evaluation[r.model] += r.seconds
    _check_one_suite(records)
    numbers = [r for r in records if r.benchmark != "training" and r.metric != COMPLETE]
    suite = suite_of(numbers)
    figures = draw_figures(suite, directory / "figures") if records else []
    config = directory / "config.json"
    run = read_json(config) if config.exists() else None
    note = (run or {}).get("config", {}).get("note", "")
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("advspur.report", "."), autoescape=True, trim_blocks=True
    ).get_template("page.html")
    page = template.render(
        title=directory.name,
        run=run,
        note=note,
        models=[_model_row(m, cost, evaluation) for m in suite.models],
        has_unknown=bool(suite.unknown()),
        trends=[*trends(suite), *color_shift_trends(suite)],
        mask_trends=mask_trends(suite),
        headlines=_headlines(suite),
        figures=[_image(p, " ".join([caption, note]), title) for title, p, caption in figures],
        claims=claims(directory),
        theory_figures=[_image(path, caption) for path, caption in theory_figures],
        numbers=[
            (m.name, [_number_row(r) for r in numbers if r.model == m.name]) for m in suite.models
        ],
        num_records=len(numbers),
        directory=directory,
    )
    path = directory / "report.html"
    write_whole(path, page)
    return path


def _check_one_suite(records):
    """Check that adversarially trained models differ in architecture, norm, budget or seed.

    Several standard models of one architecture are averaged, as seeds are; those of unknown
    training are drawn one by one.
    """
    places, rhos = {}, rhos_of(records)
    for r in records:
        if not r.train_epsilon and r.model not in rhos:
            continue
        place = (r.arch, r.train_p if r.train_epsilon else None, r.train_epsilon, r.seed)
        place += (rhos.get(r.model),)
        name = r.model.split("@")[0]
        other = places.setdefault(place, name)
        require(
            other == name,
            f"{other} and {name} have the same architecture, training norm, budget and seed: a "
            "report shows one of them; evaluate them into two directories with --workdir=DIR",
        )


def _image(path, caption, title=None):
    data = base64.b64encode(path.read_bytes()).decode()
    return {"src": f"data:image/png;base64,{data}", "caption": caption, "title": title}


def _headlines(suite):
    """The measures that any model has, and a row a model: (value, interval), or None, of each."""
    measures = [*HEADLINES, *(m for own in own_measures(suite).values() for m in own)]
    rows = [(m.name, [suite.estimate(h, m.name) for h in measures]) for m in suite.models]
    kept = [i for i, _ in enumerate(measures) if any(row[i].num_examples for _, row in rows)]
    return {
        "columns": [(measures[i].title, measures[i].name) for i in kept],
        "rows": [
            (name, [_percent(row[i]) if row[i].num_examples else None for i in kept])
            for name, row in rows
        ],
    }


def _model_row(model, cost, evaluation):
    spent = {r.metric: r.value for r in cost if r.model == model.name}
    trained = training_label(model.p)
    if model.p != UNKNOWN and model.epsilon:
        trained = f"{norm_label(model.p)}, ε = {budget_label(model.p, model.epsilon)}"
    return {
        "name": model.name,
        "arch": model.arch,
        "training": trained + (f", ρ = {model.rho:g}" if model.rho else ""),
        "seed": model.seed,
        "seconds": spent.get("seconds"),
        "memory": spent.get("peak_memory_mb"),
        "evaluation": evaluation.get(model.name),
    }


def _number_row(record):
    value, interval = _percent(record)
    if record.metric in COUNTS:
        value, interval = f"{record.value:,.0f}", ""
    return {
        "benchmark": TITLES.get(record.benchmark, record.benchmark),
        "metric": record.metric.replace("_", " "),
        "options": options_label(record.options),
        "value": value,
        "interval": interval,
        "n": record.num_examples,
    }


def _percent(number):
    """The value and the interval of a Record or Estimate as shown."""
    value, low, high = (f"{100 * x:.1f}" for x in (number.value, number.low, number.high))
    return value, f"[{low}, {high}]"
