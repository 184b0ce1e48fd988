"""The kinds of panels: bars, numbers against the training budget, one accuracy against another.

The colour shows the training norm, marker and line style the architecture. A marker is hollow
unless the interval of its difference from the standard model of its architecture excludes 0.
"""

import itertools
import math
import textwrap

import matplotlib.pyplot as plt

from advspur.intervals import difference
from advspur.report.suite import (
    STANDARD,
    UNKNOWN,
    budget_label,
    mean_estimate,
    norm_label,
    training_label,
)

COLORS = {STANDARD: "#6b6b6b", 2.0: "#c8532b", math.inf: "#2b6cb0", UNKNOWN: "#7b3fa0"}
OTHER = "#2f8f5b"  # for norms that are not in the paper
UNKNOWN_LOOKS = "PX*vp<"  # markers for models of unknown training
LOOKS = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))  # marker, line of an architecture
PERCENT = 100
PANELS_PER_ROW = 3
NAME_LENGTH = 24


def bars(suite, headlines):
    """One panel per headline: a bar for the mean of each kind of training."""
    figure, axes = grid(len(headlines), 2.9, 2.7)
    for axis, headline in zip(axes, headlines, strict=True):
        ticks = []
        for x, p in enumerate(suite.kinds()):
            found = suite.of_kind(headline, p)
            ticks.append(f"{training_label(p)}\nn = {len(found)}")
            if found:
                mean = mean_estimate(found)
                axis.bar(x, PERCENT * mean.value, color=COLORS[p], width=0.7)
                error_bar(axis, x, mean, "black", marker="none")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(ticks)), ticks, fontsize=8.5)
        axis.set_title(_label(headline), fontsize=9.5)
        axis.grid(axis="x", visible=False)
    return figure


def by_model(suite, headlines):
    """One panel per headline: a bar for each model by name, whatever its training."""
    shown = [suite.numbers(h) for h in headlines]
    models = [m for m in suite.models if any(m.name in numbers for numbers in shown)]
    figure, axes = grid(len(headlines), 3.2, 0.24 * len(models) + 0.9, sharey=True)
    for axis, headline, numbers in zip(axes, headlines, shown, strict=True):
        for y, m in enumerate(models):
            if m.name in numbers:
                x = PERCENT * numbers[m.name].value
                axis.barh(y, x, color=COLORS.get(m.p, OTHER), height=0.7)
                lengths = {"xerr": _lengths(numbers[m.name]), "capsize": 2, "lw": 1}
                axis.errorbar([x], [y], color="black", **lengths)
        _even(axis.axvline, suite, headline)
        axis.axvline(0, color="black", linewidth=0.8)
        if all(h.metric.endswith("accuracy") for h in headlines):  # to compare the panels
            axis.set_xlim(0, PERCENT)
        axis.set_yticks(range(len(models)), [_short(m.name) for m in models], fontsize=8.5)
        axis.set_ylim(len(models) - 0.5, -0.5)  # the first model on top
        axis.set_title(_label(headline), fontsize=9.5)
        axis.grid(axis="y", visible=False)
    handles = _kind_marks(dict.fromkeys(m.p for m in models)) + _even_mark(suite, headlines)
    _legend(figure, handles, 1.5)
    return figure


def by_budget(suite, headlines):
    """One row per headline, one column per norm: standard model, budgets, unknown models."""
    norms, others = suite.norms(), unknown_names(suite, headlines)
    size = ((4.6 + 0.35 * len(others)) * len(norms), 2.35 * len(headlines) + 0.8)
    share = {"sharex": "col", "sharey": "row", "squeeze": False}
    figure, axes = plt.subplots(len(headlines), len(norms), figsize=size, **share)
    for column, p in zip(axes.T, norms, strict=True):
        curves = [suite.curves(h, norm) for h in headlines for norm in (STANDARD, p)]
        budgets = sorted({e for of_archs in curves for curve in of_archs.values() for e in curve})
        for axis, headline in zip(column, headlines, strict=True):
            for index, arch in enumerate(suite.archs()):
                _curve(axis, suite, headline, arch, p, index, budgets)
            for name, found in suite.points(headline).items():
                place = len(budgets) + others.index(name)
                error_bar(axis, place, found, COLORS[UNKNOWN], marker=UNKNOWN_LOOKS[0])
            _even(axis.axhline, suite, headline)
        labels = [budget_label(p, e) if e else "standard" for e in budgets]
        labels += map(_short, others)
        column[-1].set_xticks(range(len(labels)), labels)
        for tick in column[-1].get_xticklabels()[len(budgets) :]:
            tick.set(rotation=40, ha="right", rotation_mode="anchor", size=8, color=COLORS[UNKNOWN])
        column[-1].set_xlabel("training budget ε")
        column[0].set_title(f"{norm_label(p)} adversarial training")
    for axis, headline in zip(axes[:, 0], headlines, strict=True):
        axis.set_ylabel(_label(headline))
    extra = [_mark("x", label="paper")] if any(h.paper for h in headlines) else []
    extra += _even_mark(suite, headlines)
    if others:
        extra.append(_mark(UNKNOWN_LOOKS[0], label="unknown training", color=COLORS[UNKNOWN]))
    _legend(figure, _arch_marks(suite) + extra)
    return figure


def by_accuracy(suite, headlines):
    """One panel per ratio: its numerator against its denominator, one point per model."""
    figure, axes = grid(len(headlines), 4.6, 4.2)
    looks = dict(zip(unknown_names(suite, headlines), itertools.cycle(UNKNOWN_LOOKS), strict=False))

    def point(axis, x, y, color, **look):
        error_bar(axis, PERCENT * x.value, y, color, xerr=_lengths(x), **look)

    for axis, headline in zip(axes, headlines, strict=True):
        both = headline.over, headline._replace(over=None)
        for index, arch in enumerate(suite.archs()):
            marker, style = LOOKS[index % len(LOOKS)]
            base = suite.baseline(headline, arch)
            for p in (STANDARD, *suite.norms()):
                x, y = (suite.curve(h, arch, p) for h in both)
                for epsilon, slope in suite.curve(headline, arch, p).items():
                    look = {"markersize": 5, "markerfacecolor": _face(p, slope, base)}
                    point(axis, x[epsilon], y[epsilon], COLORS[p], marker=marker, **look)
            if math.isfinite(base.value):
                start = [PERCENT * suite.baseline(h, arch).value for h in both]
                axis.axline(start, slope=base.value, color=COLORS[STANDARD], linestyle=style, lw=1)
        for name in suite.points(headline):
            x, y = (suite.estimate(h, name) for h in both)
            point(axis, x, y, COLORS[UNKNOWN], marker=looks[name], markersize=6)
        axis.set_xlabel(f"{headline.over.title} {headline.over.name} (%)")
        axis.set_ylabel(f"{headline.title} {headline.metric.replace('_', ' ')} (%)")
    others = [_mark(m, label=_short(n), color=COLORS[UNKNOWN]) for n, m in looks.items()]
    _legend(figure, _arch_marks(suite) + _kind_marks(suite.kinds()) + others)
    return figure


def grid(count, width, height, margin=0.0, **options):
    """(figure, axes) with `count` panels of this size in inches, PANELS_PER_ROW per row."""
    rows, columns = math.ceil(count / PANELS_PER_ROW), min(count, PANELS_PER_ROW)
    size = (width * columns + margin, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for axis in axes.flat[count:]:
        axis.remove()
    return figure, list(axes.flat[:count])


def line(axis, points, color, style="-", **look):
    """Draw a line through points (x, Estimate, values of single seeds, marker options)."""
    values = [PERCENT * mean.value for _, mean, *_ in points]
    axis.plot([x for x, *_ in points], values, color=color, linestyle=style, lw=1.2, **look)
    for x, mean, seeds, marker in points:
        error_bar(axis, x, mean, **{"color": color, "marker": "o"} | marker)
        if len(seeds) > 1:
            axis.plot([x] * len(seeds), [PERCENT * v for v in seeds], ".", color="black", ms=3)


def error_bar(axis, x, estimate, color, **options):
    """Draw a marker at an Estimate, and its interval."""
    y, lengths = [PERCENT * estimate.value], _lengths(estimate)
    axis.errorbar([x], y, yerr=lengths, color=color, capsize=2, elinewidth=1, **options)


def unknown_names(suite, headlines):
    """The names of the models of unknown training with any of the headlines."""
    return list(dict.fromkeys(name for h in headlines for name in suite.points(h)))


def _curve(axis, suite, headline, arch, p, index, budgets):
    """Draw the curve of one architecture over the budgets, and its baseline."""
    marker, style = LOOKS[index % len(LOOKS)]
    base, gray = suite.baseline(headline, arch), COLORS[STANDARD]
    if math.isfinite(base.value):
        axis.axhspan(PERCENT * base.low, PERCENT * base.high, color=gray, alpha=0.15, lw=0)
        axis.axhline(PERCENT * base.value, color=gray, linestyle=style, linewidth=1)
    shift = 0.2 * (index - (len(suite.archs()) - 1) / 2)  # error bars beside each other
    points = []
    for norm in (STANDARD, p):
        for epsilon, found in suite.seeds(headline, arch, norm).items():
            mean, look = mean_estimate(found), {"color": COLORS[norm], "marker": marker}
            look |= {"markerfacecolor": _face(norm, mean, base), "markersize": 5}
            points.append((budgets.index(epsilon) + shift, mean, [e.value for e in found], look))
    line(axis, points, COLORS[p], style)
    for (of_arch, of_norm, epsilon), value in headline.paper:
        if of_arch == arch and of_norm in (STANDARD, p) and epsilon in budgets:
            at = budgets.index(epsilon) + shift
            axis.plot(at, PERCENT * value, "x", color="black", markersize=6, zorder=5)


def _face(p, estimate, base):
    """The colour a marker is filled with: white unless the model differs clearly."""
    gap = difference(estimate, base)
    return COLORS[p] if p == STANDARD or gap.low > 0 or gap.high < 0 else "white"


def _even(draw_line, suite, headline):
    """Draw a line at the value of a model that uses all regions equally."""
    if headline.even and suite.has(headline.even):
        numbers = (suite.estimate(headline.even, m.name).value for m in suite.models)
        value = PERCENT * next(filter(math.isfinite, numbers))  # a fact of the images
        draw_line(value, color="black", linestyle=":", linewidth=1)


def _label(headline):
    name = textwrap.fill(f"{headline.name} ({headline.unit})", 30)
    return f"{headline.title}\n{name}"


def _short(name):
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def _legend(figure, handles, width=2):
    """Draw a legend on top, whose widest entry takes about `width` inches."""
    look = {"loc": "outside upper center", "fontsize": 9, "handlelength": 2.6}
    figure.legend(handles=handles, ncols=int(figure.get_figwidth() // width), **look)


def _arch_marks(suite):
    """Legend entries for the architectures and the hollow marker; [] without architectures."""
    marks = [
        _mark(*look, label=arch, markersize=5)
        for arch, look in zip(suite.archs(), itertools.cycle(LOOKS), strict=False)
    ]
    hollow = {"markerfacecolor": "white", "label": "not clearly different from standard"}
    return [*marks, _mark("o", **hollow)] if marks else []


def _kind_marks(kinds):
    looks = ((training_label(p), COLORS.get(p, OTHER)) for p in kinds)
    return [_mark("none", "-", label=label, color=color, linewidth=4) for label, color in looks]


def _even_mark(suite, headlines):
    is_drawn = any(h.even and suite.has(h.even) for h in headlines)
    return [_mark("none", ":", label="area off the core", linewidth=1)] if is_drawn else []


def _mark(marker, style="none", **options):
    return plt.Line2D([], [], marker=marker, linestyle=style, **{"color": "black"} | options)


def _lengths(estimate):
    below, above = max(estimate.value - estimate.low, 0), max(estimate.high - estimate.value, 0)
    return [[PERCENT * below], [PERCENT * above]]
