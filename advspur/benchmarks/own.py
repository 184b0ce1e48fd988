"""Users' own data as a row: what the data have decides the head and the measures."""

import functools
import json
from pathlib import Path

from advspur._checks import InputError, check_choice, require
from advspur.benchmarks.row import Benchmark, keywords
from advspur.benchmarks.table import BENCHMARKS
from advspur.data.class_names import class_map
from advspur.data.own import read_own
from advspur.data.own_parts import evaluation_parts
from advspur.data.readers import Reader
from advspur.heads import plan_probes, plan_robust, probes, with_robust_heads
from advspur.heads.selection import OPTIONS as OF_HEADS
from advspur.measures import MEASURES
from advspur.models import with_class_map

MEASURED = ("accuracy", "groups", "background_gaps", "pgd", "regions")  # if the data allow it
HEADS = ("auto", "classes", "probe")


def own_benchmark(path, *, name=""):
    """Return the Benchmark of a user's data in `path`; `name` defaults to the folder's."""
    path = Path(path).expanduser()
    name = name or (path.parent if path.is_file() else path).resolve().name
    fault = f"your own data cannot be called {name!r}: choose a name with --config.data_name"
    require(name not in ("", "training", *BENCHMARKS), fault)
    options = {
        "head": keywords(probes) | {"learning_rate": 5e-4, "with_lbfgs": True},
        "pgd": {"images": "spread"},
    }
    return Benchmark(
        name,
        Reader(_reader(path)),
        MEASURED,
        options,
        parts=evaluation_parts,
        head=own_head,
        plan_head=_plan_head,
        fits=lambda facts: ("", {"data": {"image_size": facts.get("image_size") or 224}}),
    )


def _reader(path):
    """Return `read_own` for one path, which remembers what it read last."""

    @functools.lru_cache(maxsize=1)
    def remembered(options):
        return read_own(path, **json.loads(options))

    @functools.wraps(read_own, assigned=())  # its signature
    def read(**options):
        return remembered(json.dumps(options, default=str))[0]

    read.lines = lambda **options: remembered(json.dumps(options, default=str))[1]
    return read


def measured(row, parts, options):
    """Return (the measures that {part: Table} allow, lines on them and on what others lack)."""
    full, able = row.complete(options), row.able(parts, options)
    lacking = {name: MEASURES[name].lacks(parts, full[name]) for name in row.measures}
    lines = [f"measured: {', '.join(able)}; on request: autoattack"]
    lines += [f"not measured: {name}, it lacks {lacks}" for name, lacks in lacking.items() if lacks]
    return able, lines


def fitting(parts):
    """Return the parts that a probe may be fitted to: those that are not evaluated."""
    return {name: table for name, table in parts.items() if name not in evaluation_parts(parts)}


def choose_head(facts, parts, head="auto", class_names=()):
    """Return (the data's class for each output, or None for a linear probe; a line about it).

    Args:
      facts: num_classes of a model and, if known, class_names and has_features.
      parts: {part: Table}.
      head: "classes": the model's own; "probe"; "auto": its own if they are the data's.
      class_names: of the model's outputs, if the facts have none.
    Raises: InputError if neither is possible.
    """
    check_choice("head", head, HEADS)
    table = next(iter(parts.values()))
    names = table.names.get("label") or tuple(map(str, range(table.num_classes)))
    has_features, has_train = facts.get("has_features", True), "train" in fitting(parts)
    lacking = ["the model has no features"] * (not has_features)
    lacking += ["the data have no part train beside what is evaluated"] * (not has_train)
    no_probe = f"no linear probe can be fitted: {' and '.join(lacking)}"
    known = tuple(class_names) or facts.get("class_names")
    number = facts["num_classes"]
    fault = f"class_names has {len(known or ())} names, the model {number} outputs"
    require(not known or len(known) == number, fault)
    if head == "probe":
        require(not lacking, no_probe)
        return None, "head: linear probe on the model's features"
    try:
        return class_map(names, known or number)
    except InputError as error:
        if head == "classes":
            raise
        if lacking:
            raise InputError(f"{error}; and {no_probe}") from error
        return None, f"head: linear probe on the model's features, because {error}"


def own_head(model, parts, *, key, running, head="auto", class_names=(), among="all", **fit):
    """Return the model with its own classes if they are the data's, else with linear probes.

    Args:
      head, class_names: see `choose_head`.
      among: if the model has other classes too: "all": a prediction of one of them is wrong;
        "mapped": predict among the data's classes.
      fit: options of `probes`; its `heads` are fitted beside the model's own classes too.
    """
    facts = {name: getattr(model, name) for name in ("num_classes", "class_names", "has_features")}
    groups, _ = choose_head(facts, parts, head, class_names)
    if groups is None:
        return probes(model, fitting(parts), key=key, running=running, **fit)
    number, mapped = next(iter(parts.values())).num_classes, model
    if list(groups) != list(range(number)):
        has_rest = among == "all" and -1 in groups
        mapped = with_class_map(model, groups, number, with_rest=has_rest)
    of_heads = {name: fit[name] for name in OF_HEADS if name in fit}
    robust = with_robust_heads(model, fitting(parts), key=key, running=running, **of_heads)
    return [({}, mapped), *robust], key


def _plan_head(parts, *, head, among, class_names, **fit):
    check_choice("head", head, HEADS)
    check_choice("among", among, ("all", "mapped"))
    passes = plan_probes(fitting(parts), **fit)  # "auto" may fit a probe: check its options
    of_heads = {name: fit[name] for name in OF_HEADS}
    return passes if head == "probe" else plan_robust(fitting(parts), **of_heads)
