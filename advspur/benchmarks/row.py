"""Benchmark: one row, data x head -> measures, and how it is evaluated."""

import contextlib
import inspect
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from advspur._checks import check_choice, check_count, require
from advspur.benchmarks.examples import save_examples
from advspur.data.readers import Reader
from advspur.heads import as_it_is
from advspur.heads.selection import OPTIONS as OF_HEADS
from advspur.intervals import wilson
from advspur.measures import MEASURES
from advspur.models.classifier import check_is_model, classifier_facts
from advspur.records import record

# Options of data and measures that change what is measured: records carry those that are not the
# row's own. The others say how it is run, or the records show their effect by themselves.
PROTOCOL = frozenset(
    "balanced same rand objects backgrounds start mask resize transform val_only legacy "
    "num_classes interpolation look_for_files".split()
)


class Plan(NamedTuple):
    """What is measured on a row."""

    parts: dict  # {part: Table}, all of them
    options: dict  # nested as `Benchmark.defaults`, complete
    measures: dict  # {measure: ({part: Table} that it is made on, its options)}
    passes: dict  # {"head" and each measure: forward passes over an image}


class Benchmark(NamedTuple):
    """One row: what data, which head, which measures."""

    name: str  # in records and configs
    reader: Reader
    measures: tuple  # names of MEASURES that the protocol has; others can be asked for
    # {"data", "head" or a measure: {option: value}}, where they differ from the defaults. The
    # option `parts` of a measure names the parts that it is measured on.
    options: dict
    parts: Callable = tuple  # {part: Table} -> names of the parts that are measured on
    # (model, parts, *, key, running, **options) -> ([(what records say, model)], key)
    head: Callable = as_it_is
    # (parts, **options) -> forward passes over an image that the head takes
    plan_head: Callable = lambda parts, **options: 0
    # facts of a model -> (why it cannot be measured, or "", options that depend on it)
    fits: Callable = lambda facts: ("", {})

    def defaults(self):
        """{"data", "head" and each measure: {option: value}} of this row."""
        known = {"data": keywords(self.reader.read), "head": keywords(self.head)}
        known |= {name: m.options | {"parts": ()} for name, m in MEASURES.items()}
        return {name: known[name] | self.options.get(name, {}) for name in known}

    def complete(self, options):
        """`options`, nested as `defaults`, with the defaults for the rest; unknown ones raise."""
        full = self.defaults()
        for group, given in options.items():
            allowed = ", ".join(full)
            require(group in full, f"{self.name} has no options {group!r}; it has {allowed}")
            given = dict(given)
            unknown = sorted(given.keys() - full[group].keys())
            require(
                not unknown,
                f"{self.name} has no option {group}.{', '.join(unknown)}; "
                f"{group} has {', '.join(sorted(full[group])) or 'none'}",
            )
            full[group] = full[group] | given
        return full

    def changed(self, options):
        """Those of nested options that are not this row's defaults."""
        own = _plain(self.defaults())

        def is_own(group, name, value):
            return name in own.get(group, ()) and _plain(value) == own[group][name]

        return {
            group: {n: value for n, value in dict(given).items() if not is_own(group, n, value)}
            for group, given in options.items()
        }

    def chosen(self, options, measure):
        """The options of the protocol that are not this row's own: its records carry them."""
        changed, shown = self.changed(options), {}
        for group in ("data", "head", measure):
            of_group = changed[group]
            of_protocol = of_group.keys() - OF_HEADS if group == "head" else PROTOCOL
            shown |= {n: value for n, value in of_group.items() if n in of_protocol}
        shift = options["data"].get("color_shift") or {}
        return _plain(shown | {name: shift[name] for name in ("rho", "shift") if name in shift})

    def load(self, directory=None, options=None):
        """{part: Table}; `options`: of the reader, see `defaults`."""
        given = () if directory is None else (directory,)
        is_there = given or not self.reader.directories
        require(is_there, f"{self.name} needs the directory of its data")
        return self.reader.read(*given, **dict(options or {}))

    def able(self, parts, options):
        """The measures of the protocol that {part: Table} allow."""
        full = self.complete(options)
        return tuple(n for n in self.measures if not MEASURES[n].lacks(parts, full[n]))

    def plan(self, directory, measures, options):
        """The `Plan` of some measures; the options are checked before the data are looked for."""
        full = self.complete(options)
        self.plan_head({}, **full["head"])
        asked = {}
        for name in measures:
            check_choice("measures", name, tuple(MEASURES))
            asked[name] = {option: v for option, v in full[name].items() if option != "parts"}
            MEASURES[name].plan({}, **asked[name])
        parts = self.load(directory, full["data"])
        passes = {"head": self.plan_head(parts, **full["head"])}
        for name, of_measure in asked.items():
            chosen = self._parts(name, parts, full[name])
            passes[name] = MEASURES[name].plan(chosen, **of_measure)
            if MEASURES[name].selected_heads:
                passes[name] *= 1 + len(full["head"].get("heads", ()))
            asked[name] = chosen, of_measure
        return Plan(parts, full, asked, passes)

    def evaluate(
        self,
        model,
        directory=None,
        *,
        batch_size,
        key,
        measures=(),
        cache_dir=None,
        progress=None,
        **options,
    ):
        """[Record]: the numbers of one model, without the model's name.

        Args:
          model: a Classifier.
          directory: where the data are; None for embedded data.
          batch_size: images a forward pass.
          key: of heads, noise and attacks.
          measures: names of MEASURES; (): those of the row.
          cache_dir: where outcomes of single images are kept; None: nowhere.
          progress: advanced by the forward passes over an image.
          options: data={...}, head={...} and a dict for each measure; see `defaults`.
        """
        check_is_model(model)
        _, of_model = self.fits(classifier_facts(model))
        options = merged(of_model, self.changed(options))
        if not measures:
            measures = self.able(self.load(directory, self.complete(options)["data"]), options)
        plan = self.plan(directory, measures, options)  # report what is wrong before the work
        with contextlib.ExitStack() as stack:
            if cache_dir is None:  # passes are shared for the length of this call
                cache_dir = stack.enter_context(tempfile.TemporaryDirectory())
            running = {"batch_size": batch_size, "cache_dir": cache_dir, "progress": progress}
            steps = self.steps(model, plan, measures, key=key, running=running)
            return [r for _, records in steps for r in records]

    def steps(self, model, plan, measures, *, key, running, examples=None):
        """Yield (measure, its records) of some measures of a `Plan`, one after the other.

        `examples`: the path of a file to save a few images to, see `save_examples`.
        """
        check_count("batch_size", running["batch_size"])
        heads, key = self.head(model, plan.parts, key=key, running=running, **plan.options["head"])
        if examples is not None:
            save_examples(heads[0][1], {name: plan.measures[name] for name in measures}, examples)
        for name in measures:
            measure, (parts, options), records = MEASURES[name], plan.measures[name], []
            for index, (about, headed) in enumerate(heads):
                is_asked = measure.selected_heads and "selected_by" in about
                if index and not (measure.every_head or is_asked):
                    continue
                call = running | options  # an attack may have a batch size of its own
                shown = self.chosen(plan.options, name) | about
                for r in measure.run(headed, parts, key=key, **call):
                    records.append(r._replace(options=shown | r.options))
            if name == "accuracy":
                records += [_unreadable(part, t) for part, t in plan.parts.items() if t.skipped]
            yield name, [r._replace(benchmark=self.name, measure=name) for r in records]

    def _parts(self, name, parts, options):
        """The parts that a measure is made on."""
        cannot = f"{self.name} cannot be measured by {name}"
        lacking = MEASURES[name].lacks(parts, options)
        require(not lacking, f"{cannot}: it lacks {lacking}")
        asked = options["parts"] or self.parts(parts)
        missing = ", ".join(part for part in asked if part not in parts)
        require(not missing, f"{self.name} has no part {missing}; its parts are {', '.join(parts)}")
        found = {part: parts[part] for part in asked if MEASURES[name].fits(parts[part])}
        on = ", ".join(asked)
        require(found, f"{cannot} on {on}: choose other parts with {name}.parts")
        return found


def merged(options, others):
    """Nested options, those of `others` first."""
    groups = options.keys() | others.keys()
    return {g: {**options.get(g, {}), **others.get(g, {})} for g in groups}


def keywords(function):
    """{keyword-only option: its default} of a reader or a head."""
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind == p.KEYWORD_ONLY and p.name not in ("key", "running")
    }


def _unreadable(part, table):
    share = wilson(table.skipped, len(table) + table.skipped)
    return record("unreadable_share", share, options={"part": part})


def _plain(value):
    """`value` with lists for tuples, as JSON has them."""
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
