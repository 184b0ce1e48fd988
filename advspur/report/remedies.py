"""What helps: training recipes and heads, compared with networks without them.

A recipe is compared with uniformly attacked networks whose budget has the same mean square over
the pixels, or with standard networks if it has no attack; a head with the last layer of the same
networks. Seeds are paired. Intervals of differences combine Student's over seeds with images'.
"""

import itertools
import math
import string
from pathlib import Path
from typing import NamedTuple

import numpy as np

from advspur._files import read_json
from advspur.intervals import Estimate, difference, mean_value
from advspur.report import headlines as h
from advspur.report.panels import COLORS, OTHER, grid
from advspur.report.suite import STANDARD, UNKNOWN, budget_label, norm_label, number, recipe_label

SAME_BUDGET = 0.02  # relative
UNCORRELATED = "uncorrelated"  # the part with uninformative backgrounds
GAPS = ("background_gap", "majority_minority_gap")  # the first one recorded measures reliance
FIRST = "adam"  # the probe to compare with
REGION = ("foreground_attack_accuracy", "core_attack_accuracy")
CAPTION = (
    "Reliance on the background against accuracy under the largest attack in each norm, and under "
    "the largest attack on the object alone; lower right is better. Lines: uniform attacks, from "
    "standard training to the largest budget. Letters: recipes; numbers: heads. Means over seeds "
    "with 95% intervals."
)


class Kind(NamedTuple):
    """Networks that differ only in their seed, with their own last layer or a head."""

    arch: str
    p: float
    epsilon: float
    recipe: str
    weights: tuple  # of the budget on the core and on the rest
    names: dict  # {seed: name}
    uniform: float  # the uniform budget with the same mean square, mean over seeds
    head: str = ""  # "": their own last layer, or probe FIRST

    @property
    def is_weighted(self):
        """Does the recipe consist of region weights only?"""
        return self.recipe == recipe_label({"region_weights": self.weights})

    def has_budget(self, uniform):
        """Is this the uniform budget, up to the sampling of masks?"""
        return math.isclose(self.uniform, uniform, rel_tol=SAME_BUDGET)

    @property
    def label(self):
        """How they were trained, as printed, with the uniform budget."""
        if self.p == UNKNOWN:
            return ", ".join([*self.names.values(), *([f"head {self.head}"] if self.head else [])])
        # Two digits, because a recipe's budget is computed from sampled masks.
        size = f"{norm_label(self.p)} {budget_label(self.p, self.uniform, 2)}" if self.p else ""
        training = ", ".join(filter(None, [size, self.recipe])) or "standard"
        return f"{training}, head {self.head}" if self.head else training


class Remedies(NamedTuple):
    """The kinds of networks in a suite, and the numbers of one benchmark to compare."""

    benchmark: str
    kinds: list
    numbers: dict  # {role: Headline}; roles: "gap", "clean", "worst", the labels of attacks
    attacks: dict  # {role: norm} of the attacks on all pixels
    regions: dict  # {role: norm} of the attacks on the object alone
    values: dict  # {(role, kind's index): {seed: Estimate}}
    scores: dict  # {kind's index: validation score of its head, mean over seeds}
    prescribed: list  # the theory's predictions for attacks, from prescription.json

    def baseline(self, kind):
        """The index of the kind that a kind is compared with, or None."""
        if kind.head:
            return self.index(kind, "")
        for index, other in enumerate(self.kinds):
            same = (other.arch, other.p) == (kind.arch, kind.p) and not (other.recipe or other.head)
            if same and other.has_budget(kind.uniform):
                return index
        return None

    def index(self, kind, head):
        """The index of these networks with another head; None if it was not measured."""
        wanted = kind._replace(head=head)
        return self.kinds.index(wanted) if wanted in self.kinds else None

    def treated(self):
        """[(index, baseline's index)] of the kinds with a recipe or head and shared seeds."""
        pairs = [(i, self.baseline(k)) for i, k in enumerate(self.kinds) if k.recipe or k.head]
        return [(i, base) for i, base in pairs if base is not None and self.seeds(i, base)]

    def seeds(self, *indices):
        """The seeds whose gap is known for all of these kinds."""
        return set.intersection(*({*self.values["gap", i]} for i in indices))

    def level(self, role, index, seeds=None):
        """The Estimate of a kind over its seeds, or over those in `seeds`."""
        found = self.values[role, index]
        return over_seeds({s: e for s, e in found.items() if seeds is None or s in seeds})

    def change(self, role, index, base):
        """The Estimate of the difference between two kinds over their shared seeds."""
        return over_seeds(self.values[role, index], self.values[role, base])


def over_seeds(found, others=None):
    """The Estimate of the mean over seeds of {seed: Estimate}, or of its difference from others.

    Networks of all seeds share the test images: Student's interval over seeds and the mean interval
    over images add in squares. With one seed it is the interval over images.
    """
    if others is not None:
        found = {s: difference(e, others[s]) for s, e in found.items() if s in others}
    if not found:
        return Estimate(math.nan, math.nan, math.nan, 0)
    value, low, high, count = np.mean(np.array(list(found.values())), axis=0)
    half = 0.0
    if len(found) > 1:
        over = mean_value([e.value for e in found.values()])
        half = over.high - over.value
    low, high = value - math.hypot(half, value - low), value + math.hypot(half, high - value)
    return Estimate(float(value), float(low), float(high), int(count))


def read_remedies(suite, directory):
    """[Remedies], one per benchmark with a gap and models with a recipe or fitted heads."""
    path = Path(directory) / "prescription.json"
    prescribed = read_json(path).get("models", []) if path.exists() else []
    recipes, found = {m.name for m in suite.models if m.recipe}, []
    for benchmark in sorted({key[1] for key in suite.records}):
        records = {k: rs for k, rs in suite.records.items() if k[1] == benchmark}
        heads = {r.options["head"] for rs in records.values() for r in rs if _is_fitted(r)}
        numbers, attacks, regions = _numbers(records, benchmark)
        if "gap" in numbers and (heads or any(name in recipes for name, *_ in records)):
            every = _kinds(suite, sorted(heads))
            kinds = [kind for kind in every if _values(suite, numbers["gap"], kind)]
            values = {
                (role, i): _values(suite, headline, kind)
                for role, headline in numbers.items()
                for i, kind in enumerate(kinds)
            }
            scores = {i: _score(suite, numbers["gap"], kind) for i, kind in enumerate(kinds)}
            known = attacks, regions, values, scores, prescribed
            found.append(Remedies(benchmark, kinds, numbers, *known))
    return found


def _is_fitted(record):
    """Was the record measured with a head that was selected for robustness?"""
    return "selected_by" in record.options


def _kinds(suite, heads):
    """The Kinds in a suite, each with its own last layer and then with each of the heads.

    Each network of unknown training is a kind by itself.
    """
    kinds = {}
    for m in suite.models:
        if not m.rho and "@" not in m.name:
            key = m.arch, m.p, m.epsilon or 0.0, m.recipe, m.weights
            name = m.name if m.p == UNKNOWN else ""
            kinds.setdefault((key, name), {})[m.seed] = m
    found = []
    for (key, _), of_seeds in kinds.items():
        names = {seed: m.name for seed, m in of_seeds.items()}
        uniform = float(np.mean([m.uniform or 0.0 for m in of_seeds.values()]))
        found += [Kind(*key, names, uniform, head) for head in ("", *heads)]
    return found


def _values(suite, headline, kind):
    """{seed: Estimate} of the finite values of a number of a kind."""
    headline = _with_head(headline, kind)
    found = {seed: suite.estimate(headline, name) for seed, name in kind.names.items()}
    return {seed: e for seed, e in found.items() if all(map(math.isfinite, e))}


def _score(suite, headline, kind):
    """The validation score of a kind's head, mean over seeds; NaN if unknown."""
    found = [suite.matching(_with_head(headline, kind), name) for name in kind.names.values()]
    scores = [records[-1].options.get("val_score", math.nan) for records in found if records]
    return float(np.mean(scores))


def _with_head(headline, kind):
    """The headline as measured with the kind's head."""
    of_head = {"head": kind.head} if kind.head else {}
    return headline._replace(options=headline.options | of_head)


def _numbers(records, benchmark):
    """{role: Headline} of a benchmark; {role: norm} of its attacks, and of those on the object."""
    found = {}
    for (_, _, metric), of_metric in records.items():
        found.setdefault(metric, []).extend(r.options for r in of_metric if not _is_fitted(r))
    parts = [o["part"] for o in found.get("accuracy", ()) if "part" in o]
    one = {"part": "test" if "test" in parts else next(iter(parts), "")}
    gap = next((metric for metric in GAPS if metric in found), "")
    # Not all metrics are recorded by part.
    part = {metric: one if all("part" in o for o in of) else {} for metric, of in found.items()}
    asked = {"clean": ("accuracy", one), "worst": ("worst_group_accuracy", one)}
    asked["gap"] = gap, part.get(gap)
    if UNCORRELATED in parts:
        asked[UNCORRELATED] = "accuracy", {"part": UNCORRELATED}
    # If every number of a benchmark has a head, it is measured with probes.
    own = {"head": FIRST if all("head" in o for o in found.get(gap, ())) else None}
    numbers = {
        role: h.Headline(role, benchmark, metric, options | own)
        for role, (metric, options) in asked.items()
        if metric in found
    }
    roles = []
    for metrics, where in ((("pgd_accuracy",), ""), (REGION, " on the object")):
        attacks = {}
        for metric in metrics:
            budgets = {(o["p"], o["epsilon"]) for o in found.get(metric, ()) if o.get("epsilon")}
            for p, epsilon in sorted(budgets, key=lambda b: (number(b[0]), b[1])):
                size = f"{norm_label(number(p))} {budget_label(number(p), epsilon)}"
                role, options = f"PGD {size}{where}", part[metric] | {"p": p, "epsilon": epsilon}
                numbers[role] = h.Headline(role, benchmark, metric, options | own)
                attacks[role] = number(p)
        roles.append(attacks)
    return numbers, *roles


def remedy_table(remedies):
    """(titles, rows): each kind's numbers, and their differences from its baseline."""
    roles = [r for r in ("gap", "worst", UNCORRELATED, "clean") if r in remedies.numbers]
    roles += [*remedies.attacks, *remedies.regions]
    treated, rows = dict(remedies.treated()), []
    for index, kind in enumerate(remedies.kinds):
        base = treated.get(index)
        cells = []
        for role in roles:
            level = 100 * remedies.level(role, index).value
            change = "" if base is None else points(remedies.change(role, index, base))
            cells.append((f"{level:.1f}" if math.isfinite(level) else "–", change))
        against = "" if base is None else remedies.kinds[base].label
        rows.append((kind.label, against, len(remedies.seeds(index)), cells))
    titles = {"gap": "gap", "worst": "worst group", "clean": "clean"}
    return [titles.get(role, role) for role in roles], rows


def remedy_figures(every):
    """Yield (file name, title, figure, caption): the gap against robust accuracy."""
    for remedies in every:
        largest = {norm: role for role, norm in remedies.attacks.items()}
        shown = [*largest.values(), *list(remedies.regions)[-1:]]
        if shown:
            title = f"What helps: {h.title_of(remedies.benchmark)}"
            yield f"remedies_{remedies.benchmark}", title, _draw(remedies, shown), CAPTION


def _draw(remedies, shown):
    figure, axes = grid(len(shown), 4.4, 4.4, sharey=True)
    heads = list(dict.fromkeys(kind.head for kind in remedies.kinds if kind.head))
    for axis, role in zip(axes, shown, strict=True):
        for p in dict.fromkeys(k.p for k in remedies.kinds if k.p != UNKNOWN):
            uniform = [not (k.recipe or k.head) and k.p in (STANDARD, p) for k in remedies.kinds]
            plain = np.flatnonzero(uniform)
            line = [[100 * remedies.level(r, i).value for i in plain] for r in (role, "gap")]
            axis.plot(*line, color=COLORS.get(p, OTHER), linewidth=1)
        letters = itertools.cycle(string.ascii_lowercase)
        for index, kind in enumerate(remedies.kinds):
            x, y = (remedies.level(r, index) for r in (role, "gap"))
            errors = [[[100 * (e.value - e.low)], [100 * (e.high - e.value)]] for e in (x, y)]
            point = 100 * x.value, 100 * y.value
            tag, label, face = "", kind.label, "white" if kind.recipe else None
            if kind.head:
                tag, label = str(heads.index(kind.head) + 1), f"head {kind.head}"
            elif kind.recipe:
                tag = next(letters)
            axis.annotate(tag, point, (4, 3), textcoords="offset points", fontsize=9)
            axis.errorbar(
                *point, xerr=errors[0], yerr=errors[1], capsize=2, elinewidth=0.8, fmt="o",
                color=COLORS.get(kind.p, OTHER), markersize=5, markerfacecolor=face,
                label=f"{tag}  {label}".strip(),
            )  # fmt: skip
        axis.set_xlabel(f"accuracy under {role} (%)")
    axes[0].set_ylabel(f"{remedies.numbers['gap'].metric.replace('_', ' ')} (points)")
    handles, labels = axes[0].get_legend_handles_labels()
    handles = dict(reversed(list(zip(labels, handles, strict=True))))  # the first of each label
    names = list(reversed(handles))
    shown = [handles[name] for name in names], names
    figure.legend(*shown, loc="outside lower center", fontsize=8, ncols=2)
    return figure


def points(estimate):
    """A difference in points, with its interval."""
    value, low, high = (f"{100 * x:+.1f}" for x in estimate[:3])
    return f"{value} [{low}, {high}]"
