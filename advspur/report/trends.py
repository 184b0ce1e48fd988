"""The paper's trends as predicates over a suite, each with a verdict at the measured n.

A comparison of two numbers is *clear* when the interval of their difference excludes 0. "holds":
every comparison a trend is made of points its way and is clear; "fails": one points the
other way and is clear; "holds in part": some are clear its way, none against; else "open".
"""

from itertools import pairwise
from typing import NamedTuple

from advspur.report.suite import difference, mean_estimate, norm_label

RELIANCE = (
    # metric, its options, what it is called, sign of more reliance on the background
    ("background_gap", {}, "background gap", 1),
    ("relative_background_gap", {}, "relative background gap", 1),
    ("majority_minority_gap", {}, "majority-minority gap", 1),
    ("relative_foreground_sensitivity", {"family": "linf"}, "RFS (noise of equal deviation)", -1),
    ("relative_foreground_sensitivity", {"family": "l2"}, "RFS (noise of equal length)", -1),
)


class Trend(NamedTuple):
    """One statement, what was found, and the verdict."""

    statement: str
    verdict: str
    detail: str


def trends(suite):
    """All trends that the suite has the models for."""
    found = []
    for metric, options, title, sign in RELIANCE:
        word = "larger" if sign > 0 else "smaller"
        curves = {
            p: [suite.mean(metric, p, e, **options) for e in suite.budgets(p)]
            for p in suite.norms()
        }
        for p, curve in curves.items():
            base = suite.mean(metric, p, 0.0, **options)
            statement = f"Every {norm_label(p)} model has a {word} {title} than the standard one."
            gaps = [difference(value, base) for value in curve]
            found.append(_judge(statement, gaps, sign, "budgets"))
        for p, curve in curves.items():
            statement = f"The {title} gets {word} with each larger {norm_label(p)} budget."
            steps = [difference(b, a) for a, b in pairwise(curve)]
            found.append(_judge(statement, steps, sign, "steps between budgets"))
        if len(curves) == 2:
            two, inf = map(mean_estimate, curves.values())
            statement = f"Averaged over the budgets, the {title} is {word} for ℓ2 than for ℓ∞."
            found.append(_judge(statement, [difference(two, inf)], sign, "comparisons"))
    return [trend for trend in found if trend is not None]


def _judge(statement, differences, sign, unit):
    differences = [d for d in differences if d.num_examples]
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
    shown = ", ".join(
        f"{100 * d.value:+.1f} [{100 * d.low:.1f}, {100 * d.high:.1f}]" for d in differences
    )
    detail = f"{toward} of {count} {unit} that way, {clear} of them clearly"
    if against:
        detail += f", {against} clearly the other way"
    return Trend(statement, verdict, f"{detail}. Differences in points: {shown}.")
