"""Figures of a suite in the layouts of the paper's Figures 1, 5, 6, 7, 8, and robustness."""

import functools
import math
from pathlib import Path

from advspur.report import measures
from advspur.report.color_shift import color_shift_drawings
from advspur.report.own import own_figures
from advspur.report.panels import COLORS, PERCENT, bars, by_accuracy, by_budget, by_model
from advspur.report.suite import STANDARD, UNKNOWN, budget_label, norm_label, number, options_label

SNAPSHOT = (
    "Models of each kind are averaged over architectures and budgets (n of them); bars show the "
    "mean of the 95% intervals."
)
SHIFTS = (
    "Accuracy under a shift against ImageNet accuracy, one point a model. Lines: the ratio of "
    "the standard model of an architecture. ObjectNet is scored over all 1000 classes: a "
    "prediction outside its classes is wrong."
)
NOISE = (
    "Relative sensitivity to the foreground or core. Lower: relatively "
    "more sensitive to the background. Levels are averaged before the formula is applied. Noise "
    "of equal standard deviation (linf) carries more energy on the larger region, the "
    "background; noise of equal ℓ2 length does not."
)
GAPS = "Background gap, MIXED-SAME minus MIXED-RAND accuracy, and as a share of MIXED-SAME."
GROUPS = (
    "Accuracy where the background agrees with the class (majority) and where it does not "
    "(minority), and their difference."
)
MASKS = (
    "Not in the paper. Relative sensitivity where only one region is attacked, lower: relatively "
    "more sensitive to the background; and deep NFS, the share of the squared input gradient "
    "that lies off the core."
)


def draw_figures(suite, directory):
    """Draw every figure the suite has records for; return [(title, path of the PNG, caption)]."""
    drawings, titles = {}, {"robustness": "Robustness"}
    for name, title, draw, shown, caption in (*FIGURES, *own_figures(suite)):
        has_budgets = bool(suite.norms())
        if draw is by_budget and not has_budgets and suite.unknown():
            draw = by_model
        recorded = [m for m in shown if (suite.numbers if draw is by_model else suite.has)(m)]
        # Standard models alone have nothing to be drawn against.
        if recorded and (has_budgets or suite.unknown() or draw in (bars, by_model)):
            drawings[name] = functools.partial(_draw, draw, suite, recorded, caption)
            titles[name] = title
    if any(key[1:] == (measures.SHAPES, "pgd_accuracy") for key in suite.records):
        drawings["robustness"] = functools.partial(_robustness, suite)
    for name, (title, draw) in color_shift_drawings(suite).items():
        drawings[name], titles[name] = draw, title
    drawn = save_drawings(drawings, directory)
    return [(titles[path.stem], path, caption) for path, caption in drawn]


def save_drawings(drawings, directory):
    """Save {name: plt -> (figure, caption)} as PNG and PDF; return [(path of the PNG, caption)]."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 160,
    }
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    with plt.rc_context(style):
        for name, draw in drawings.items():
            figure, caption = draw(plt)
            for suffix in ("pdf", "png"):
                figure.savefig(directory / f"{name}.{suffix}")
            plt.close(figure)
            drawn.append((directory / f"{name}.png", caption))
    return drawn


def _draw(draw, suite, shown, caption, plt):
    return draw(suite, shown, plt), " ".join([caption, *(_protocol(suite, m) for m in shown)])


def _protocol(suite, measure):
    """What the records say of how a measure was taken, all readings where models differ."""
    found = [r for m in suite.models for r in suite.matching(measure, m.name)]
    counts = [r.num_examples for r in found]
    readings = dict.fromkeys(options_label(r.options) for r in found)
    least, most = min(counts), max(counts)
    size = f"n = {least}" if least == most else f"n = {least} to {most}"
    name = f"{measure.title} {measure.metric.replace('_', ' ')}"
    return f"{name}: {'; '.join([size, *filter(None, readings)])}."


def _robustness(suite, plt):
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.6), sharey=True)
    attacks = [r for found in suite.records.values() for r in found if r.metric == "pgd_accuracy"]
    for axis, attack_p in zip(axes, (2.0, math.inf), strict=True):
        asked = {"p": "inf" if attack_p == math.inf else attack_p}
        epsilons = sorted(
            {r.options["epsilon"] for r in attacks if number(r.options["p"]) == attack_p} - {0.0}
        )
        attacked = measures.SHAPES_CLEAN._replace(metric="pgd_accuracy")
        shown = [attacked._replace(options=asked | {"epsilon": e}) for e in epsilons]
        shown = [measures.SHAPES_CLEAN, *shown]
        for look, arch in enumerate(suite.archs()):
            for p in (STANDARD, *suite.norms()):
                curves = [suite.curve(m, arch, p) for m in shown]
                for strength, budget in enumerate(sorted(set().union(*curves))):
                    values = [c[budget].value if budget in c else math.nan for c in curves]
                    label = f"{norm_label(p)} {budget_label(p, budget)}" if p else "standard"
                    axis.plot(
                        range(len(values)),
                        [PERCENT * v for v in values],
                        color=COLORS[p],
                        linestyle=("-", "--", ":")[strength % 3],
                        marker=("o", "s", "^", "D")[look % 4],
                        markersize=3,
                        label=label if len(suite.archs()) == 1 else f"{arch} {label}",
                    )
        names = dict.fromkeys(name for m in shown[1:] for name in suite.points(m))
        for index, name in enumerate(names):
            values = [PERCENT * suite.estimate(m, name).value for m in shown]
            look = {"linestyle": ("-", "--", ":")[index % 3], "marker": "P", "markersize": 3}
            axis.plot(range(len(values)), values, color=COLORS[UNKNOWN], label=name, **look)
        labels = [budget_label(attack_p, e) for e in epsilons]
        axis.set_xticks(range(len(shown)), ["clean", *labels])
        axis.set_xlabel(f"{norm_label(attack_p)} budget of the PGD attack")
    axes[0].set_ylabel("accuracy (%)")
    if axes[1].lines:
        handles = axes[1].get_legend_handles_labels()
        figure.legend(*handles, loc="outside right upper", fontsize=8, handlelength=2.6)
    return figure, "Accuracy under PGD at evaluation: what adversarial training was for."


# file name, title on the page, kind of panels, measures, caption
FIGURES = (
    ("figure1_snapshot", "Figure 1: snapshot", bars, measures.SNAPSHOT, SNAPSHOT),
    ("figure5_shifts", "Figure 5: natural shifts", by_accuracy, measures.SHIFTS, SHIFTS),
    ("figure6_sensitivity", "Figure 6: sensitivity", by_budget, measures.NOISE, NOISE),
    ("figure7_background_gap", "Figure 7: background gap", by_budget, measures.GAPS, GAPS),
    ("figure8_waterbirds", "Figure 8: Waterbirds", by_budget, measures.BIRDS, GROUPS),
    ("snapshot", "Snapshot, as Figure 1", bars, measures.SHAPES_SNAPSHOT, SNAPSHOT),
    ("sensitivity", "Sensitivity, as Figure 6", by_budget, measures.SHAPES_NOISE, NOISE),
    ("background_gap", "Background gap, as Figure 7", by_budget, measures.SHAPES_GAPS, GAPS),
    ("groups", "Groups, as Figure 8", by_budget, measures.SHAPES_GROUPS, GROUPS),
    *(
        (
            f"masks_{name}",
            f"Attacks and gradients on masks: {found[0].title}",
            by_budget,
            found,
            MASKS,
        )
        for name, found in measures.MASKS.items()
    ),
)
