"""Figure 9: accuracy of models trained at several ratios rho of majority to minority, and claims.

The gap at a budget is the accuracy at the largest rho minus that at the smallest.
"""

import functools
import math
from itertools import pairwise
from typing import NamedTuple

from advspur.intervals import Estimate, difference, ratio
from advspur.report.measures import COLORS, TITLES
from advspur.report.panels import PERCENT, error_bar
from advspur.report.suite import STANDARD, budget_label, mean_estimate, norm_label, number
from advspur.report.trends import Trend, judge

TEST, CONTROL = "test", "uncorrelated"
SPLITS = {TEST: "colours as in training", CONTROL: "colours that tell nothing"}
CAPTION = (
    "Accuracy under PGD against its budget (0: no attack), one line a ratio ρ of majority to "
    "minority images of each class; and the gap, the accuracy at the largest ρ minus that at the "
    "smallest, with colours as in training and with colours that tell nothing (ρ = 1). Means over "
    "seeds (dots) with the mean of their 95% intervals over test images."
)


class Arm(NamedTuple):
    """Models that differ in rho and seed only, and the norm of the attack they are put under."""

    arch: str
    p: float
    epsilon: float
    attack_p: float

    @property
    def title(self):
        """How the models were trained and what they are attacked in."""
        budget = f"{norm_label(self.p)} AT, ε = {budget_label(self.p, self.epsilon)}"
        trained = budget if self.p else "standard training"
        return f"{self.arch}, {trained}\n{norm_label(self.attack_p)} attack"


def color_shift_drawings(suite):
    """{file name: (title, plt -> (figure, caption))} of the arms that there are records of."""
    parts = {
        "figure9_color_shift": ("Figure 9: colour shift", [a for a in _arms(suite) if not a.p]),
        "color_shift_adversarial": (
            "Colour shift, adversarial training",
            [a for a in _arms(suite) if a.p],
        ),
    }
    return {
        name: (title, functools.partial(_draw, suite, arms))
        for name, (title, arms) in parts.items()
        if arms
    }


def color_shift_trends(suite):
    """The paper's sentences on Figure 9, held against every arm."""
    found = [f(suite, arm) for arm in _arms(suite) for f in (_clean, _attacked, _growth, _control)]
    return [Trend(TITLES[COLORS], *trend) for trend in found if trend]


def _arms(suite):
    models = {m.name: m for m in suite.models if m.rho and "@" not in m.name}
    found = set()
    for (name, benchmark, metric), records in suite.records.items():
        if name in models and (benchmark, metric) == (COLORS, "pgd_accuracy"):
            _, arch, p, epsilon, *_ = models[name]
            found |= {Arm(arch, p, epsilon, number(r.options["p"])) for r in records}
    return sorted(found)


def _curves(suite, arm, split=TEST):
    """{rho: {budget of the attack: {seed: Estimate}}}, all ascending; of the attacked images."""
    curves = {}
    for m in suite.models:
        if (m.arch, m.p, m.epsilon) != arm[:3] or not m.rho or "@" in m.name:
            continue
        for r in suite.records.get((m.name, COLORS, "pgd_accuracy"), []):
            is_asked = r.options["part"] == split and number(r.options["p"]) == arm.attack_p
            if is_asked and math.isfinite(r.value):
                of_budget = curves.setdefault(m.rho, {}).setdefault(r.options["epsilon"], {})
                of_budget[m.seed] = Estimate(r.value, r.low, r.high, r.num_examples)
    return {rho: dict(sorted(of_rho.items())) for rho, of_rho in sorted(curves.items())}


def _gaps(curves):
    """{budget: (Estimate of the gap, [gap of each seed])}; {} where there is one ratio only."""
    if len(curves) < 2:
        return {}
    low, high = curves[min(curves)], curves[max(curves)]
    return {
        budget: (
            difference(_mean(high[budget]), _mean(low[budget])),
            [e.value - low[budget][s].value for s, e in high[budget].items() if s in low[budget]],
        )
        for budget in high
        if budget in low
    }


def _mean(seeds):
    return mean_estimate(list(seeds.values()))


def _draw(suite, arms, plt):
    figure, axes = plt.subplots(
        2, len(arms), figsize=(4.6 * len(arms), 6.4), sharex="col", squeeze=False
    )
    for (top, bottom), arm in zip(axes.T, arms, strict=True):
        curves = _curves(suite, arm)
        shades = plt.get_cmap("viridis")([i / max(len(curves), 2) for i in range(len(curves))])
        for color, (rho, curve) in zip(shades, curves.items(), strict=True):
            means = {budget: _mean(seeds) for budget, seeds in curve.items()}
            points = {budget: [e.value for e in seeds.values()] for budget, seeds in curve.items()}
            _line(top, points, means, color, f"ρ = {rho:g}")
        for split, style, color in ((TEST, "-", "#1d1d1f"), (CONTROL, "--", "#8a6100")):
            gaps = _gaps(_curves(suite, arm, split))
            points = {budget: found for budget, (_, found) in gaps.items()}
            means = {budget: gap for budget, (gap, _) in gaps.items()}
            _line(bottom, points, means, color, SPLITS[split], style)
        for clean, _ in filter(None, [_gaps(curves).get(0.0)]):
            bottom.axhline(PERCENT * clean.value, color="#6b6b6b", linestyle=":", linewidth=1)
        bottom.axhline(0, color="black", linewidth=0.8)
        budgets = sorted(set().union(*curves.values()))
        bottom.set_xticks(budgets, [budget_label(arm.attack_p, b) for b in budgets])
        bottom.set_xlabel(f"{norm_label(arm.attack_p)} budget ε of the attack")
        top.set_title(arm.title, fontsize=9.5)
    axes[0, 0].set_ylabel("accuracy (%)")
    axes[1, 0].set_ylabel("gap (points); dotted: clean")
    for row in axes:
        row[-1].legend(fontsize=8.5, frameon=True, framealpha=0.9, edgecolor="none")
    return figure, " ".join([CAPTION, _protocol(suite, arms)])


def _line(axis, points, means, color, label, style="-"):
    """The means with their intervals, and the point of each seed."""
    values = [PERCENT * e.value for e in means.values()]
    axis.plot(list(means), values, color=color, linestyle=style, linewidth=1.2, label=label)
    for budget, mean in means.items():
        error_bar(axis, budget, mean, color, marker="o", markersize=4)
        if len(points[budget]) > 1:
            values = [PERCENT * value for value in points[budget]]
            axis.plot([budget] * len(values), values, ".", color="black", markersize=2.5)


def _protocol(suite, arms):
    """Counts, the size of the shift and what budget is large enough to undo it."""
    shifts = {
        r.options["shift"]
        for (_, benchmark, metric), records in suite.records.items()
        for r in records
        if (benchmark, metric) == (COLORS, "pgd_accuracy")
    }
    curves = [_curves(suite, arm) for arm in arms]
    found = [seeds for c in curves for of_rho in c.values() for seeds in of_rho.values()]
    counts = {e.num_examples for seeds in found for e in seeds.values()}
    undone = " ".join(
        f"Shift {shift * 255:g}/255 of one channel: an ℓ∞ attack of that budget can undo it, an ℓ2 "
        f"attack of {32 * shift:.3g}."
        for shift in sorted(shifts)
    )
    return f"{undone} Seeds: {_span(set(map(len, found)))}; n: {_span(counts)} images."


def _clean(suite, arm):
    """Only where the arm's attack is the first of its kind: the clean numbers are the same."""
    if arm != next(a for a in _arms(suite) if a[:3] == arm[:3]):
        return None
    means = [_mean(of_rho[0.0]) for of_rho in _curves(suite, arm).values()]
    steps = {"": [difference(b, a) for a, b in pairwise(means)]}
    return judge(f"{_about(arm, False)}clean accuracy is higher for larger ρ.", steps, 1, "steps")


def _attacked(suite, arm):
    gaps = _gaps(_curves(suite, arm))
    found = {"": [gap for budget, (gap, _) in gaps.items() if budget]}
    statement = f"{_about(arm)}accuracy under attack is higher for the largest ρ than the smallest."
    return judge(statement, found, 1, "budgets")


def _growth(suite, arm):
    """The gap under attack against the clean one."""
    gaps = _gaps(_curves(suite, arm))
    if not gaps:
        return None
    clean = gaps[0.0][0]
    growth = {"": [difference(gap, clean) for budget, (gap, _) in gaps.items() if budget]}
    budget, (largest, _) = max(gaps.items(), key=lambda item: item[1][0].value)
    times = ratio(largest, clean) if clean.low > 0 else None
    note = f"Clean gap {_points(clean)}, largest {_points(largest)} at ε = "
    note += f"{budget_label(arm.attack_p, budget)}"
    if times is None:
        note += "; their ratio has no interval: that of the clean gap holds 0."
    else:
        note += f", {times.value:.2f} [{times.low:.2f}, {times.high:.2f}] times (paper: up to 4)."
    statement = (
        f"{_about(arm)}the gap between the largest and the smallest ρ is larger under attack."
    )
    return judge(statement, growth, 1, "budgets", note)


def _control(suite, arm):
    gaps = _gaps(_curves(suite, arm, CONTROL))
    found = {"": [gap for budget, (gap, _) in gaps.items() if budget]}
    statement = (
        f"{_about(arm)}with colours that tell nothing the gain vanishes or reverses (ours): "
        "the largest ρ is worse under attack."
    )
    return judge(statement, found, -1, "budgets")


def _about(arm, with_attack=True):
    trained = "Standard training" if arm.p == STANDARD else f"{norm_label(arm.p)} training"
    attack = f", {norm_label(arm.attack_p)} attack" if with_attack else ""
    return f"{trained}{attack}: "


def _points(estimate):
    value, low, high = (PERCENT * x for x in estimate[:3])
    return f"{value:.1f} points [{low:.1f}, {high:.1f}]"


def _span(values):
    least, most = min(values), max(values)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
