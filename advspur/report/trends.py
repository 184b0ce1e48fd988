"""The paper's sentences on its models as predicates over a suite, each with a verdict.

A comparison of two numbers, or a rank correlation, is *clear* when its interval excludes 0.
"holds": every comparison a trend is made of points its way and is clear; "fails": one points
the other way and is clear; "holds in part": some are clear its way, none against; else "open".
Statements of a number hold where the interval of what was measured covers it.
"""

import math
from itertools import pairwise
from typing import NamedTuple

from advspur.intervals import difference, ratio
from advspur.report import measures
from advspur.report.resampling import count_beyond, rank_correlation
from advspur.report.suite import NORMS, budget_label, mean_estimate, norm_label

PAPER_MODELS = 10  # of each norm: five budgets on two backbones
POINTS = ("Differences in points", 100, 1)  # how estimates are shown: title, scale, digits
CORRELATIONS = ("With the budget", 1, 2)
ROUGHLY = 0.1  # our reading of the paper's "roughly constant": within 10%


class Trend(NamedTuple):
    """One statement on a benchmark, the verdict, and what was found."""

    benchmark: str
    statement: str
    verdict: str
    detail: str


def trends(suite):
    """All trends of the paper that the suite has the models for."""
    return _judged(suite, STATEMENTS)


def mask_trends(suite):
    """The same of our own measures: attacks and gradients on masks."""
    return _judged(suite, MASK_STATEMENTS)


def _judged(suite, statements):
    found = [(m, of(suite, m, *facts)) for of, m, *facts in statements]
    return [Trend(m.title, *trend) for m, trend in found if trend]


# Each judge returns (statement, verdict, detail), or None where the models are not there.


def _beyond(suite, measure, p, paper=None):
    """Every model beyond the standard one of its architecture; or as many as the paper counts."""
    families = {
        a: (suite.baseline(measure, a), list(suite.curve(measure, a, p).values()))
        for a in suite.archs()
    }
    families = {a: f for a, f in families.items() if f[1] and math.isfinite(f[0].value)}
    if not families:
        return None
    gaps = {a: [difference(m, base) for m in models] for a, (base, models) in families.items()}
    count = count_beyond(families.values(), measure.sign)
    k, n = int(count.value), count.num_examples
    note = f"95% interval of the count: {count.low:.0f} to {count.high:.0f}."
    more = f"a {_word(measure)} {measure.name} than the standard"
    if paper is None:
        statement = f"Every {norm_label(p)} model has {more} one."
        return judge(statement, gaps, measure.sign, "models", note)
    if n == PAPER_MODELS:
        verdict = "holds" if count.low <= paper <= count.high else "fails"
    else:
        verdict = f"open ({k} of {n} models)"
    statement = (
        f"{paper} of {PAPER_MODELS} {norm_label(p)} models have {more} model of their architecture."
    )
    detail = f"{k} of {n} here; the paper's {paper} holds where the interval covers it."
    return statement, verdict, f"{detail} {note} {_listed(gaps, POINTS)}"


def _steps(suite, measure, p):
    """More with each larger budget."""
    curves = {a: list(suite.curve(measure, a, p).values()) for a in suite.archs()}
    steps = {a: [difference(y, x) for x, y in pairwise(c)] for a, c in curves.items()}
    statement = f"The {measure.name} gets {_word(measure)} with each larger {norm_label(p)} budget."
    return judge(statement, steps, measure.sign, "steps between budgets")


def _ranked(suite, measure, p, reverse=False):
    """Spearman's correlation with the budget is of the sign of more reliance, or the reverse."""
    curves = {a: suite.curve(measure, a, p) for a in suite.archs()}
    found = {a: [rank_correlation(c)] for a, c in curves.items() if len(c) > 2}
    verb = "rise" if measure.sign > 0 else "fall"
    does = f"does not {verb}" if reverse else f"{verb}s"
    statement = f"The {measure.name} {does} with the {norm_label(p)} budget"
    statement += " (our reading: it goes the other way)." if reverse else "."
    sign = -measure.sign if reverse else measure.sign
    return judge(statement, found, sign, "rank correlations", shown=CORRELATIONS)


def _stronger(suite, measure):
    """More for l2 than for l-infinity, on the mean over the budgets."""
    means = {a: [list(suite.curve(measure, a, p).values()) for p in NORMS] for a in suite.archs()}
    gaps = {a: [difference(*map(mean_estimate, both))] for a, both in means.items() if all(both)}
    statement = (
        f"Averaged over the budgets, the {measure.name} is {_word(measure)} for ℓ2 than for ℓ∞."
    )
    return judge(statement, gaps, measure.sign, "comparisons")


def _constant(suite, measure):
    """The number is within ROUGHLY of the baseline's, as a share of it."""
    found = [
        (ratio(e, suite.baseline(measure, a)), f"{a}, {norm_label(p)} {budget_label(p, epsilon)}")
        for a in suite.archs()
        for p in NORMS
        for epsilon, e in suite.curve(measure, a, p).items()
    ]
    found = [(change, place) for change, place in found if math.isfinite(change.value)]
    if not found:
        return None
    verdict = "open"
    if any(min(c.high - 1, 1 - c.low) < -ROUGHLY for c, _ in found):
        verdict = "fails"
    elif all(max(c.high - 1, 1 - c.low) <= ROUGHLY for c, _ in found):
        verdict = "holds"
    furthest, place = max(found, key=lambda item: abs(item[0].value - 1))
    change, low, high = (100 * (x - 1) for x in furthest[:3])
    statement = (
        f"The {measure.name} is roughly constant (our reading: within {ROUGHLY:.0%} of the "
        "standard model of the architecture, with its interval)."
    )
    detail = f"Largest relative deviation of {len(found)} models: {change:+.1f}% "
    return statement, verdict, f"{detail}[{low:.1f}, {high:.1f}], {place}."


def _stated(suite, measure, place, value):
    """The number of one model is the paper's."""
    arch, p, epsilon = place
    found = suite.curve(measure, arch, p).get(epsilon)
    if found is None:
        return None
    model = f"{norm_label(p)} {arch}, ε = {budget_label(p, epsilon)}," if p else f"standard {arch}"
    return (
        f"The {measure.name} of the {model} is {100 * value:g}%.",
        "holds" if found.low <= value <= found.high else "fails",
        f"{100 * found.value:.1f}% [{100 * found.low:.1f}, {100 * found.high:.1f}].",
    )


def _of(measure, *judges):
    """The statements of some judges on a measure, for either norm, and that l2 is stronger."""
    return (*((judge, measure, p) for judge in judges for p in NORMS), (_stronger, measure))


COUNTS = (  # of the paper, section 4.3
    (measures.BACKGROUND_GAP, 2.0, 9),
    (measures.BACKGROUND_GAP, math.inf, 5),
    (measures.GROUP_GAP, 2.0, 10),
    (measures.GROUP_GAP, math.inf, 6),
)
# (judge, measure, what else it takes), in the order of the page
STATEMENTS = (
    (_constant, measures.IMAGENET_C_RATIO),
    *_of(measures.OBJECTNET_RATIO, _beyond, _ranked),
    *_of(measures.RFS, _beyond, _ranked),
    *((judge, measures.RCS, 2.0) for judge in (_beyond, _ranked)),
    (_ranked, measures.RCS, math.inf, True),
    (_stronger, measures.RCS),
    *((_beyond, *count) for count in COUNTS),
    *((_stated, measures.RELATIVE_GAP, *stated) for stated in measures.RELATIVE_GAP.paper),
    *_of(measures.BACKGROUND_GAP, _ranked),
    *_of(measures.RELATIVE_GAP, _ranked),
    *_of(measures.GROUP_GAP, _ranked),
    *(s for m in measures.SHAPES_RELIANCE for s in _of(m, _beyond, _steps, _ranked)),
)
MASK_STATEMENTS = tuple(
    s for masks in measures.MASKS.values() for m in masks for s in _of(m, _beyond, _ranked)
)


def _word(measure):
    return "larger" if measure.sign > 0 else "smaller"


def judge(statement, compared, sign, unit, note="", shown=POINTS):
    """Whether every comparison of {arch: [Estimate]} has the sign; None where there is none."""
    known = {a: [d for d in found if math.isfinite(d.value)] for a, found in compared.items()}
    differences = [d for found in known.values() for d in found]
    if not differences:
        return None
    toward = sum(sign * d.value > 0 for d in differences)
    clear = sum((d.low if sign > 0 else -d.high) > 0 for d in differences)
    against = sum((d.high if sign > 0 else -d.low) < 0 for d in differences)
    count = len(differences)
    if against:
        verdict = "fails"
    elif clear == count:
        verdict = "holds"
    else:
        verdict = "holds in part" if clear else "open"
    detail = f"{toward} of {count} {unit} that way, {clear} of them clearly"
    if against:
        detail += f", {against} clearly the other way"
    return statement, verdict, " ".join(filter(None, [f"{detail}.", note, _listed(known, shown)]))


def _listed(compared, shown):
    """The numbers with intervals; with the names of the architectures where there are several."""
    title, scale, digits = shown

    def text(x, sign=""):
        return f"{scale * x:{sign}.{digits}f}"

    groups = {
        arch: ", ".join(f"{text(d.value, '+')} [{text(d.low)}, {text(d.high)}]" for d in found)
        for arch, found in compared.items()
        if found
    }
    named = (f"{a} {numbers}" for a, numbers in groups.items())
    return f"{title}: {'; '.join(groups.values() if len(groups) == 1 else named)}."
