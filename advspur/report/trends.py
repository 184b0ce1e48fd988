"""The paper's trends as predicates over a suite, each with a verdict at the measured n.

A comparison of two numbers is *clear* when the interval of their difference excludes 0. "holds":
every comparison a trend is made of points its way and is clear; "fails": one points the
other way and is clear; "holds in part": some are clear its way, none against; else "open".
"""

from typing import NamedTuple

from advspur.report.suite import difference, mean_estimate, norm_label

RELIANCE = (
    # metric, what it is called, sign of more reliance on the background
    ("background_gap", "background gap", 1),
    ("relative_background_gap", "relative background gap", 1),
    ("majority_minority_gap", "majority-minority gap", 1),
    ("relative_foreground_sensitivity", "relative foreground sensitivity (RFS)", -1),
)


class Trend(NamedTuple):
    """One statement, what was found, and the verdict."""

    statement: str
    verdict: str
    detail: str


def trends(suite):
    """All trends that the suite has the models for."""
    found = []
    for metric, title, sign in RELIANCE:
        word = "larger" if sign > 0 else "smaller"
        for p in suite.norms():
            found.append(_against_standard(suite, metric, title, sign, word, p))
        for p in suite.norms():
            if len(suite.budgets(p)) > 1:
                found.append(_with_budget(suite, metric, title, sign, word, p))
        if len(suite.norms()) == 2:
            found.append(_between_norms(suite, metric, title, sign, word))
    return [trend for trend in found if trend is not None]


def _against_standard(suite, metric, title, sign, word, p):
    base = suite.mean(metric, p, 0.0)
    values = [suite.mean(metric, p, e) for e in suite.budgets(p)]
    statement = f"Every {norm_label(p)} model has a {word} {title} than the standard model."
    return _judge(statement, [difference(v, base) for v in values], sign, "budgets")


def _with_budget(suite, metric, title, sign, word, p):
    values = [suite.mean(metric, p, e) for e in suite.budgets(p)]
    steps = [difference(b, a) for a, b in zip(values, values[1:], strict=False)]
    statement = f"The {title} gets {word} with each larger {norm_label(p)} budget."
    return _judge(statement, steps, sign, "steps from one budget to the next")


def _between_norms(suite, metric, title, sign, word):
    two, inf = (
        mean_estimate([suite.mean(metric, p, e) for e in suite.budgets(p)]) for p in suite.norms()
    )
    statement = (
        f"Averaged over the budgets trained with, the {title} is {word} under ℓ2 than under ℓ∞."
    )
    return _judge(statement, [difference(two, inf)], sign, "comparison")


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
