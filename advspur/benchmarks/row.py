"""Benchmark: one row, data x head -> measures, and how it is evaluated."""

import contextlib
import inspect
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from advspur._checks import check_choice, check_count, require
from advspur.data.readers import Reader
from advspur.heads import as_it_is
from advspur.heads.selection import OPTIONS as OF_HEADS
from advspur.intervals import wilson
from advspur.measures import MEASURES
from advspur.measures.examples import EXPLAINED, save_examples
from advspur.models.classifier import check_is_model, classifier_facts
from advspur.records import record

# Options of data and measures that change what is measured: records show those that differ from the
# row's defaults. The others do not change it, or their effect is in the records anyway.
PROTOCOL = frozenset(
    "balanced same rand objects backgrounds start mask resize transform val_only legacy "
    "num_classes interpolation look_for_files".split()
)


class Plan(NamedTuple):
    """The data, options and measures of a row, checked."""

    parts: dict  # {part: Table}, all of them
    options: dict  # nested as `Benchmark.defaults`, complete
    measures: dict  # {measure: ({part: Table} that it is made on, its options)}
    passes: dict  # {"head" and each measure: single-image forward passes}


class Benchmark(NamedTuple):
    """One row: which data, which head, which measures."""

    name: str  # in records and configs
    reader: Reader
    measures: tuple  # names of MEASURES in the protocol; others are made on request
    # {"data", "head" or a measure: {option: value}} that differ from the defaults. The option
    # `parts` of a measure names the parts that it is made on.
    options: dict
    parts: Callable = tuple  # {part: Table} -> names of the parts that are measured
    # (model, parts, *, key, running, **options) -> ([(fields of the records, model)], key)
    head: Callable = as_it_is
    # (parts, **options) -> forward passes of the head, in images
    plan_head: Callable = lambda parts, **options: 0
    # facts of a model -> (why it cannot be measured, or "", options that depend on it)
    fits: Callable = lambda facts: ("", {})

    def defaults(self):
        """Return {"data", "head" and each measure: {option: value}} of this row."""
        known = {"data": keywords(self.reader.read), "head": keywords(self.head)}
        known |= {name: m.options | {"parts": ()} for name, m in MEASURES.items()}
        return {name: known[name] | self.options.get(name, {}) for name in known}

    def complete(self, options):
        """Return nested options with the defaults for the rest; raise InputError if one is unknown.

        They are nested as in `defaults`.
        """
        full = self.defaults()
        for group, chosen in options.items():
            groups = ", ".join(full)
            require(group in full, f"{self.name} has no options {group!r}; it has {groups}")
            chosen, known = dict(chosen), ", ".join(sorted(full[group])) or "none"
            unknown = ", ".join(sorted(chosen.keys() - full[group].keys()))
            fault = f"{self.name} has no option {group}.{unknown}; {group} has {known}"
            require(not unknown, fault)
            full[group] = full[group] | chosen
        return full

    def changed(self, options):
        """Return the nested options that differ from this row's defaults."""
        defaults = _plain(self.defaults())

        def differs(group, name, value):
            known = defaults.get(group, {})
            return name not in known or _plain(value) != known[name]

        return {
            group: {n: value for n, value in dict(values).items() if differs(group, n, value)}
            for group, values in options.items()
        }

    def options_for(self, facts, options):
        """Return (why a model cannot be measured, or ""; its options, changed by `options`)."""
        (fault, of_model), changed = self.fits(facts), self.changed(options)
        groups = of_model.keys() | changed.keys()
        return fault, {g: of_model.get(g, {}) | changed.get(g, {}) for g in groups}

    def able(self, parts, options):
        """Return the measures of the protocol that {part: Table} allow."""
        full = self.complete(options)
        return tuple(n for n in self.measures if not MEASURES[n].lacks(parts, full[n]))

    def load(self, directory=None, options=None):
        """Return {part: Table}; `options` are those of the reader."""
        place = () if directory is None else (directory,)
        has_place = place or not self.reader.directories
        require(has_place, f"{self.name} needs the directory of its data")
        return self.reader.read(*place, **dict(options or {}))

    def plan(self, directory, measures, options):
        """Return the `Plan` of some measures; check the options before looking for the data."""
        full = self.complete(options)
        self.plan_head({}, **full["head"])
        of_measures = {}
        for name in measures:
            check_choice("measures", name, tuple(MEASURES))
            of_measures[name] = {option: v for option, v in full[name].items() if option != "parts"}
            MEASURES[name].plan({}, **of_measures[name])
        parts = self.load(directory, full["data"])
        passes, planned = {"head": self.plan_head(parts, **full["head"])}, {}
        for name, of_measure in of_measures.items():
            chosen, measure = self._parts(name, parts, full[name]), MEASURES[name]
            planned[name] = chosen, of_measure
            num_heads = len(full["head"].get("heads", ())) if measure.selected_heads else 0
            passes[name] = measure.plan(chosen, **of_measure) * (1 + num_heads)
        return Plan(parts, full, planned, passes)

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
        """Return the [Record] of one model, without the model's name.

        Args:
          model: a Classifier.
          directory: where the data are; None for embedded data.
          batch_size: images per forward pass.
          key: of heads, noise and attacks.
          measures: names of MEASURES; (): those of the row that the data allow.
          cache_dir: where outcomes of single images are kept; None: nowhere.
          progress: advanced by single-image forward passes.
          options: data={...}, head={...} and a dict for each measure; see `defaults`.
        """
        check_is_model(model)
        _, options = self.options_for(classifier_facts(model), options)
        if not measures:
            measures = self.able(self.load(directory, self.complete(options)["data"]), options)
        plan = self.plan(directory, measures, options)
        with contextlib.ExitStack() as stack:
            if cache_dir is None:  # the measures of this call share their passes
                cache_dir = stack.enter_context(tempfile.TemporaryDirectory())
            running = {"batch_size": batch_size, "cache_dir": cache_dir, "progress": progress}
            steps = self.steps(model, plan, measures, key=key, running=running)
            return [r for _, records in steps for r in records]

    def steps(self, model, plan, measures, *, key, running, examples=None):
        """Yield (measure, its records) for some measures of a `Plan`.

        `examples`: (folder, the model's name), to save a few images there; see `save_examples`.
        """
        check_count("batch_size", running["batch_size"])
        heads, key = self.head(model, plan.parts, key=key, running=running, **plan.options["head"])
        if examples is not None and EXPLAINED.intersection(measures):
            save_examples(heads[0][1], self, plan, *examples)
        for name in measures:
            measure, (parts, options), records = MEASURES[name], plan.measures[name], []
            call = running | options  # an attack may have its own batch size
            shown = self._shown(plan.options, name)
            for index, (of_head, headed) in enumerate(heads):
                is_selected = measure.selected_heads and "selected_by" in of_head
                if index == 0 or measure.every_head or is_selected:
                    for r in measure.run(headed, parts, key=key, **call):
                        records.append(r._replace(options=shown | of_head | r.options))
            if name == "accuracy":
                for part, table in ((p, t) for p, t in plan.parts.items() if t.skipped):
                    share = wilson(table.skipped, len(table) + table.skipped)
                    records.append(record("unreadable_share", share, options={"part": part}))
            yield name, [r._replace(benchmark=self.name, measure=name) for r in records]

    def _shown(self, options, measure):
        """Return the changed options of the protocol, which the measure's records show."""
        changed, shown = self.changed(options), {}
        for group in ("data", "head", measure):
            names = changed[group].keys() - OF_HEADS if group == "head" else PROTOCOL
            shown |= {n: value for n, value in changed[group].items() if n in names}
        shift = options["data"].get("color_shift") or {}
        return _plain(shown | {name: shift[name] for name in ("rho", "shift") if name in shift})

    def _parts(self, name, parts, options):
        """Return the {part: Table} that a measure is made on."""
        measure, cannot = MEASURES[name], f"{self.name} cannot be measured by {name}"
        lacking = measure.lacks(parts, options)
        require(not lacking, f"{cannot}: it lacks {lacking}")
        names = options["parts"] or self.parts(parts)
        missing = ", ".join(part for part in names if part not in parts)
        require(not missing, f"{self.name} has no part {missing}; its parts are {', '.join(parts)}")
        chosen = {part: parts[part] for part in names if measure.fits(parts[part])}
        require(chosen, f"{cannot} on {', '.join(names)}: choose other parts with {name}.parts")
        return chosen


def keywords(function):
    """Return {keyword-only option: its default} of a reader or a head."""
    return {
        p.name: p.default
        for p in inspect.signature(function).parameters.values()
        if p.kind == p.KEYWORD_ONLY and p.name not in ("key", "running")
    }


def _plain(value):
    """Return `value` with lists for tuples, as in JSON."""
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
