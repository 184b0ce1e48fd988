"""Figure 9: accuracy of models trained at several ratios rho of majority to minority, and claims.

The gap at a budget is accuracy at the largest rho minus accuracy at the smallest.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import matplotlib.pyplot as plt

from advspur.intervals import difference, ratio
from advspur.report.claims import Finding, judge
from advspur.report.headlines import COLORS, title_of
from advspur.report.panels import PERCENT, line
from advspur.report.suite import budget_label, estimate_of, mean_estimate, norm_label, number, span

TEST, CONTROL = "test", "uncorrelated"
TITLE = title_of(COLORS)
SPLITS = (  # label, line style and colour of the gap
    (TEST, "colours as in training", "-", "#1d1d1f"),
    (CONTROL, "uninformative colours", "--", "#8a6100"),
)
CAPTION = (
    "Top: accuracy under PGD against the attack's budget (0: no attack), one line for each ratio ρ "
    "of majority to minority images in training. Bottom: the gap, accuracy at the largest ρ minus "
    "accuracy at the smallest, with colours as in training and with uninformative colours (ρ = 1). "
    "Means over seeds (dots), with the mean of their 95% intervals over test images."
)


class Arm(NamedTuple):
    """Models that differ only in rho and seed, and the norm of the attack on them."""

    arch: str
    p: float
    epsilon: float
    attack_p: float


def color_shift_figures(suite):
    """Yield (file name, title, figure, caption, rows of its findings) for arms with records."""
    arms = arms_of(suite)
    for name, title, is_robust in (
        ("figure9_color_shift", "Figure 9: colour shift", False),
        ("color_shift_adversarial", "Colour shift, adversarial training", True),
    ):
        shown = {arm: curves for arm, curves in arms.items() if bool(arm.p) == is_robust}
        if shown:
            rows = {f"{TITLE}: {about}" for arm in shown for about in _abouts(arm)}
            yield name, title, _draw(shown), f"{CAPTION} {_protocol(suite, shown)}", rows


def color_shift_findings(suite):
    """The paper's claims about Figure 9, tested on every arm."""
    arms = arms_of(suite)
    # Clean accuracy does not depend on the attack: judge it once.
    first = {arm[:3]: arm for arm in reversed(arms)}.values()
    found = [one for arm, curves in arms.items() for one in _judged(arm, curves, arm in first)]
    return [
        Finding(TITLE, f"{about}: {text}", *judged, f"{TITLE}: {about}", column)
        for about, column, text, judged in found
        if judged
    ]


def arms_of(suite):
    """{Arm: {split: {rho: {budget of the attack: {seed: Estimate}}}}}, all ascending."""
    points, arms = {}, {}
    for m in suite.models:
        for r in suite.records.get((m.name, COLORS, "pgd_accuracy"), []):
            arm = Arm(m.arch, m.p, m.epsilon, number(r.options["p"]))
            if m.rho and "@" not in m.name and math.isfinite(r.value):
                place = arm, r.options["part"], m.rho, r.options["epsilon"]
                points.setdefault(place, {})[m.seed] = estimate_of(r)
    for (arm, split, rho, budget), seeds in sorted(points.items()):
        of_arm = arms.setdefault(arm, {TEST: {}, CONTROL: {}})
        of_arm[split].setdefault(rho, {})[budget] = seeds
    return arms


def gaps_of(curves):
    """{budget: (Estimate of the gap, [gap of each seed])}; {} with one ratio only."""
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


def _abouts(arm):
    """The training of an arm as printed, and the training with the attack."""
    trained = f"{norm_label(arm.p)} training" if arm.p else "Standard training"
    return trained, f"{trained}, {norm_label(arm.attack_p)} attack"


def _judged(arm, curves, with_clean):
    """Yield (subject, column, sentence, result of `judge`) for one arm."""
    trained, attacked = _abouts(arm)
    if with_clean:
        means = [_mean(of_rho[0.0]) for of_rho in curves[TEST].values()]
        steps = [difference(b, a) for a, b in pairwise(means)]
        text = "clean accuracy is higher for larger ρ."
        yield trained, "clean accuracy grows with ρ", text, judge({"": steps}, 1, "steps")
    gaps = {b: gap for b, (gap, _) in gaps_of(curves[TEST]).items()}
    clean, under = gaps.get(0.0), [gap for b, gap in gaps.items() if b]
    text = "accuracy under attack is higher for the largest ρ than the smallest."
    yield attacked, "the largest ρ helps under attack", text, judge({"": under}, 1, "budgets")
    text = "the gap between the largest and the smallest ρ is larger under attack."
    growth = [difference(gap, clean) for gap in under]
    found = judge({"": growth}, 1, "budgets", _growth(gaps, arm)) if under else None
    yield attacked, "more than without attack", text, found
    text = "with uninformative colours the gain vanishes or reverses (our addition): the largest ρ "
    control = [gap for budget, (gap, _) in gaps_of(curves[CONTROL]).items() if budget]
    found = judge({"": control}, -1, "budgets")
    yield attacked, "not with uninformative colours", f"{text}is worse under attack.", found


def _growth(gaps, arm):
    """Compare the largest gap with the clean one."""

    def points(estimate):
        value, low, high = (PERCENT * x for x in estimate[:3])
        return f"{value:.1f} points [{low:.1f}, {high:.1f}]"

    clean, budget = gaps[0.0], max(gaps, key=lambda budget: gaps[budget].value)
    note = f"Clean gap {points(clean)}, largest {points(gaps[budget])} at ε = "
    note += budget_label(arm.attack_p, budget)
    if clean.low <= 0:
        return f"{note}; their ratio has no interval, because that of the clean gap contains 0."
    times = ratio(gaps[budget], clean)
    return f"{note}, {times.value:.2f} [{times.low:.2f}, {times.high:.2f}] times (paper: up to 4)."


def _draw(arms):
    """Draw one column per arm, accuracies above gaps."""
    size = (4.6 * len(arms), 6.4)
    figure, axes = plt.subplots(2, len(arms), figsize=size, sharex="col", squeeze=False)
    for (top, bottom), (arm, splits) in zip(axes.T, arms.items(), strict=True):
        curves = splits[TEST]
        shades = plt.get_cmap("viridis")([i / max(len(curves), 2) for i in range(len(curves))])
        for color, (rho, curve) in zip(shades, curves.items(), strict=True):
            found = {b: (_mean(s), [e.value for e in s.values()]) for b, s in curve.items()}
            _line(top, found, color, label=f"ρ = {rho:g}")
        for split, label, style, color in SPLITS:
            _line(bottom, gaps_of(splits[split]), color, style, label=label)
        gaps = gaps_of(curves)
        if 0.0 in gaps:
            clean = PERCENT * gaps[0.0][0].value
            bottom.axhline(clean, color="#6b6b6b", linestyle=":", linewidth=1)
        bottom.axhline(0, color="black", linewidth=0.8)
        budgets = sorted(set().union(*curves.values()))
        bottom.set_xticks(budgets, [budget_label(arm.attack_p, b) for b in budgets])
        bottom.set_xlabel(f"{norm_label(arm.attack_p)} budget ε of the attack")
        robust = f"{norm_label(arm.p)} AT, ε = {budget_label(arm.p, arm.epsilon)}"
        title = f"{arm.arch}, {robust if arm.p else 'standard training'}"
        top.set_title(f"{title}\n{norm_label(arm.attack_p)} attack", fontsize=9.5)
    axes[0, 0].set_ylabel("accuracy (%)")
    axes[1, 0].set_ylabel("gap (points); dotted: clean")
    for row in axes:
        row[-1].legend(fontsize=8.5, frameon=True, framealpha=0.9, edgecolor="none")
    return figure


def _line(axis, found, *look, **label):
    """Draw a `line` through {budget: (Estimate, values of single seeds)}."""
    line(axis, [(b, *both, {"markersize": 4}) for b, both in found.items()], *look, **label)


def _protocol(suite, arms):
    """The size of the shift, the budgets that can undo it, and the counts."""
    attacked = [rs for key, rs in suite.records.items() if key[1:] == (COLORS, "pgd_accuracy")]
    undone = " ".join(
        f"Shift {shift * 255:g}/255 of one channel: an ℓ∞ attack of that budget can undo it, an ℓ2 "
        f"attack of {32 * shift:.3g}."
        for shift in sorted({r.options["shift"] for records in attacked for r in records})
    )
    curves = [curve for splits in arms.values() for curve in splits[TEST].values()]
    found = [seeds for curve in curves for seeds in curve.values()]
    counts = span(e.num_examples for seeds in found for e in seeds.values())
    return f"{undone} Seeds: {span(map(len, found))}; n: {counts} images."
