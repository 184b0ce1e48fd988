"""report.html: one self-contained page of what was run, found, and what it cost."""

import base64
import json
from pathlib import Path

import jinja2

from advspur._checks import require
from advspur.records import COMPLETE, read_records
from advspur.report.claims import claims
from advspur.report.figures import draw_figures
from advspur.report.suite import Suite, budget_label, norm_label, number
from advspur.report.theory_figures import draw_theory
from advspur.report.trends import trends


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
    evaluation = {r.model: r.seconds for r in records if r.metric == COMPLETE}
    _check_one_suite(records)
    suite = Suite([r for r in records if r.benchmark != "training" and r.metric != COMPLETE])
    figures = draw_figures(suite, directory / "figures") if records else []
    config = directory / "config.json"
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("advspur.report", "."), autoescape=True, trim_blocks=True
    ).get_template("page.html")
    page = template.render(
        title=directory.name,
        run=json.loads(config.read_text()) if config.exists() else None,
        models=[_model_row(m, suite, cost, evaluation) for m in suite.models()],
        trends=trends(suite),
        figures=_images(figures),
        claims=claims(directory),
        theory_figures=_images(theory_figures),
        numbers=[
            (m, [_number_row(r) for r in suite.records if r.model == m]) for m in suite.models()
        ],
        num_records=len(suite.records),
        directory=directory,
    )
    path = directory / "report.html"
    temporary = path.with_name("report.html.tmp")
    temporary.write_text(page)
    temporary.replace(path)
    return path


def _check_one_suite(records):
    """The figures put one model at each (norm, budget, seed): see that there is only one."""
    places = {}
    for r in records:
        place = (r.train_p if r.train_epsilon else None, r.train_epsilon, r.seed)
        name = r.model.split("@")[0]
        other = places.setdefault(place, name)
        require(
            other == name,
            f"{other} and {name} were trained with the same norm, budget and seed: a report shows "
            "one suite; evaluate them into two directories with --workdir=DIR",
        )


def _images(figures):
    return [{"src": _data_url(path), "caption": caption} for path, caption in figures]


def _data_url(path):
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _model_row(model, suite, cost, evaluation):
    first = next(r for r in suite.records if r.model == model)
    spent = {r.metric: r.value for r in cost if r.model == model}
    p = number(first.train_p)
    return {
        "name": model,
        "arch": first.arch,
        "training": f"{norm_label(p)}, ε = {budget_label(p, first.train_epsilon)}"
        if first.train_epsilon
        else "standard",
        "seed": first.seed,
        "seconds": spent.get("seconds"),
        "memory": spent.get("peak_memory_mb"),
        "evaluation": evaluation.get(model),
    }


def _number_row(record):
    percent = [f"{100 * x:.1f}" for x in (record.value, record.low, record.high)]
    return {
        "metric": record.metric.replace("_", " "),
        "options": ", ".join(f"{k} = {_short(v)}" for k, v in record.options.items()),
        "value": percent[0],
        "interval": f"[{percent[1]}, {percent[2]}]",
        "n": record.num_examples,
    }


def _short(value):
    if isinstance(value, list):
        return "/".join(_short(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
