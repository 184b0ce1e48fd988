"""Users' own data as a row: what was found in them decides the head and the measures."""

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

MEASURED = ("accuracy", "groups", "background_gaps", "pgd", "regions")  # where the data allow it
HEADS = ("auto", "classes", "probe")


def own_benchmark(path, *, name=""):
    """The Benchmark of users' own data in `path`; `name`: default the folder's."""
    path = Path(path).expanduser()
    name = name or (path.parent if path.is_file() else path).resolve().name
    require(
        name not in ("", "training", *BENCHMARKS),
        f"data of your own cannot be called {name!r}: give another name with --config.data_name",
    )
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
    """`own` on one path, which remembers what it read last."""

    @functools.lru_cache(maxsize=1)
    def remembered(options):
        return read_own(path, **json.loads(options))

    @functools.wraps(read_own, assigned=())  # its signature
    def read(**options):
        return remembered(json.dumps(options, default=str))[0]

    read.lines = lambda **options: remembered(json.dumps(options, default=str))[1]
    return read


def measured(row, parts, options):
    """(the measures that {part: Table} allow, lines that say what the others lack)."""
    full, able = row.complete(options), row.able(parts, options)
    lacking = {name: MEASURES[name].lacks(parts, full[name]) for name in row.measures}
    lines = [f"measured: {', '.join(able)}; on request: autoattack"]
    lines += [f"not measured: {name}, it lacks {lacks}" for name, lacks in lacking.items() if lacks]
    return able, lines


def fitting(parts):
    """The parts that a probe may see: those that are not evaluated."""
    return {name: table for name, table in parts.items() if name not in evaluation_parts(parts)}


def choose_head(facts, parts, head="auto", class_names=()):
    """(the class of the data for each output, or None for a linear probe; a line that says which).

    Args:
      facts: num_classes of a model, class_names and has_features where they are known.
      parts: {part: Table}.
      class_names: of the model's outputs, where the facts have none.
      head: "classes": the model's own; "probe"; "auto": its own where they are the data's.
    Raises: InputError where neither can be had.
    """
    check_choice("head", head, HEADS)
    table = next(iter(parts.values()))
    names = table.names.get("label") or tuple(map(str, range(table.num_classes)))
    lacking = [
        text
        for text, is_there in (
            ("the model has no features", facts.get("has_features", True)),
            ("the data have no part train beside what is evaluated", "train" in fitting(parts)),
        )
        if not is_there
    ]
    known = tuple(class_names) or facts.get("class_names")
    require(
        not known or len(known) == facts["num_classes"],
        f"class_names has {len(known or ())} names, the model {facts['num_classes']} outputs",
    )
    if head == "probe":
        require(not lacking, f"no linear probe can be fitted: {' and '.join(lacking)}")
        return None, "head: linear probe on the model's features"
    try:
        return class_map(names, known or facts["num_classes"])
    except InputError as error:
        if head == "classes":
            raise
        if lacking:
            text = f"{error}; and no linear probe can be fitted: {' and '.join(lacking)}"
            raise InputError(text) from error
        return None, f"head: linear probe on the model's features, because {error}"


def own_head(model, parts, *, key, running, head="auto", class_names=(), among="all", **fit):
    """The model's own classes where they are the data's, or linear probes on its features.

    Args:
      head: of `choose_head`.
      class_names: of the model's outputs, in order, where the model does not say them.
      among: where the model has other classes too: a prediction of one is wrong ("all"), or the
        prediction is made among the data's classes ("mapped").
      fit: options of `probes`; those of its `heads` are fitted beside the model's own classes too.
    """
    facts = {name: getattr(model, name) for name in ("num_classes", "class_names", "has_features")}
    groups, _ = choose_head(facts, parts, head, class_names)
    if groups is None:
        return probes(model, fitting(parts), key=key, running=running, **fit)
    number, mapped = next(iter(parts.values())).num_classes, model
    if list(groups) != list(range(number)):
        has_rest = among == "all" and -1 in groups
        mapped = with_class_map(model, groups, number, with_rest=has_rest)
    found, of_heads = [({}, mapped)], {name: fit[name] for name in OF_HEADS if name in fit}
    if of_heads.get("heads"):
        call = {"running": running, "key": key} | of_heads
        found += with_robust_heads(model, fitting(parts), **call)
    return found, key


def _plan_head(parts, *, head, among, class_names, **fit):
    check_choice("head", head, HEADS)
    check_choice("among", among, ("all", "mapped"))
    passes = plan_probes(fitting(parts), **fit)  # a probe may be fitted unasked: check its options
    of_heads = {name: fit[name] for name in OF_HEADS}
    return passes if head == "probe" else plan_robust(fitting(parts), **of_heads)
