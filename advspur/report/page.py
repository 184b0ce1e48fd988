"""report.html: one self-contained page of what was run, found, and what it cost."""

import base64
from pathlib import Path

import jinja2

from advspur._checks import require
from advspur._files import read_json, write_whole
from advspur.records import COMPLETE, COUNTS, read_records
from advspur.report.claims import CLAIMS, MASK_CLAIMS, findings
from advspur.report.color_shift import color_shift_findings
from advspur.report.figures import draw_figures, save_figures
from advspur.report.headlines import HEADLINES, TITLES
from advspur.report.own import own_headlines
from advspur.report.suite import (
    UNKNOWN,
    budget_label,
    norm_label,
    options_label,
    rhos_of,
    suite_of,
    training_label,
)
from advspur.report.theory_claims import read_theory, theory_findings
from advspur.report.theory_figures import theory_figures


def write_report(directory):
    """Draw figures/ and report.html of a directory with results; return the page's path.

    Reads records.jsonl, theory_*.npz and config.json, whichever are there. Raises InputError
    where there are neither records nor theory.
    """
    directory = Path(directory)
    records = read_records(directory / "records.jsonl")
    theory = read_theory(directory)
    require(
        records or theory,
        f"{directory / 'records.jsonl'} holds no records: run scripts/reproduce.py or "
        "scripts/evaluate.py first",
    )
    _check_one_suite(records)
    numbers = [r for r in records if r.benchmark != "training" and r.metric != COMPLETE]
    suite = suite_of(numbers)
    figures = draw_figures(suite, directory / "figures") if records else []
    drawn = save_figures(theory_figures(theory), directory / "figures") if theory else []
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
        models=[_model_row(m, [r for r in records if r.model == m.name]) for m in suite.models],
        has_unknown=bool(suite.unknown()),
        trends=[*findings(suite, CLAIMS), *color_shift_findings(suite)],
        mask_trends=findings(suite, MASK_CLAIMS),
        headlines=_headlines(suite),
        figures=[_image(title, path, f"{caption} {note}") for title, path, caption in figures],
        claims=theory_findings(theory),
        theory_figures=[_image(*figure) for figure in drawn],
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


def _model_row(model, records):
    """How a model was trained and what it cost, training and all its measures."""
    spent = {r.metric: r.value for r in records if r.benchmark == "training"}
    measured = [r.seconds for r in records if r.metric == COMPLETE]  # one for each measure
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
        "evaluation": sum(measured) if measured else None,
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
