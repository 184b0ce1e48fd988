"""The kinds of panels: bars, numbers against the training budget, one accuracy against another.

Colour is the norm of the training, marker and line style the architecture. A marker is hollow
unless the interval of its difference from the standard model of its architecture excludes 0.
"""

import itertools
import math
import textwrap

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
OTHER = "#2f8f5b"  # of a norm that the paper does not have
UNKNOWN_LOOKS = "PX*vp<"  # markers of models of unknown training
LOOKS = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))  # marker and line of an architecture
PERCENT = 100
BARS_PER_ROW = 3
NAME_LENGTH = 24


def bars(suite, measures, plt):
    """A panel a measure: a bar for the mean of each kind of models."""
    figure, axes = _grid(plt, len(measures), 2.9, 2.7)
    for axis, measure in zip(axes.flat, measures, strict=False):
        ticks = []
        for x, p in enumerate(suite.kinds()):
            found = suite.of_kind(measure, p)
            ticks.append(f"{training_label(p)}\nn = {len(found)}")
            if found:
                mean = mean_estimate(found)
                axis.bar(x, PERCENT * mean.value, color=COLORS[p], width=0.7)
                error_bar(axis, x, mean, "black", marker="none")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(ticks)), ticks, fontsize=8.5)
        axis.set_title(_label(measure), fontsize=9.5)
        axis.grid(axis="x", visible=False)
    return figure


def by_model(suite, measures, plt):
    """A panel a measure: a bar for every model, by name; it needs no training budget."""
    shown = [suite.numbers(m) for m in measures]
    models = [m for m in suite.models if any(m.name in of for of in shown)]
    figure, axes = _grid(plt, len(measures), 3.2, 0.24 * len(models) + 0.9, sharey=True)
    for axis, measure, numbers in zip(axes.flat, measures, shown, strict=False):
        for y, m in enumerate(models):
            for found in filter(None, [numbers.get(m.name)]):
                axis.barh(y, PERCENT * found.value, color=COLORS.get(m.p, OTHER), height=0.7)
                lengths = {"xerr": _lengths(found), "color": "black", "capsize": 2, "lw": 1}
                axis.errorbar([PERCENT * found.value], [y], **lengths)
        _even(axis.axvline, suite, measure)
        axis.axvline(0, color="black", linewidth=0.8)
        if all(m.metric.endswith("accuracy") for m in measures):  # to compare the panels
            axis.set_xlim(0, PERCENT)
        axis.set_yticks(range(len(models)), [_short(m.name) for m in models], fontsize=8.5)
        axis.set_ylim(len(models) - 0.5, -0.5)  # the first model on top
        axis.set_title(_label(measure), fontsize=9.5)
        axis.grid(axis="y", visible=False)
    handles = _kind_marks(dict.fromkeys(m.p for m in models), plt)
    if any(m.even and suite.has(m.even) for m in measures):
        handles.append(_mark(plt, "none", ":", label="area off the core", linewidth=1))
    place = {"loc": "outside upper center", "ncols": int(figure.get_figwidth() // 1.5)}
    figure.legend(handles=handles, fontsize=9, **place)
    return figure


def by_budget(suite, measures, plt):
    """A row a measure and a column a norm: the standard model, the budgets, unknown models."""
    norms = suite.norms()
    others = _unknown(suite, measures)
    size = ((4.6 + 0.35 * len(others)) * len(norms), 2.35 * len(measures) + 0.8)
    figure, axes = plt.subplots(
        len(measures), len(norms), figsize=size, sharex="col", sharey="row", squeeze=False
    )
    for column, p in zip(axes.T, norms, strict=True):
        budgets = _budgets(suite, measures, p)
        for axis, measure in zip(column, measures, strict=True):
            for look, arch in enumerate(suite.archs()):
                _curve(axis, suite, measure, arch, p, look, budgets)
            for name, found in suite.points(measure).items():
                place = len(budgets) + others.index(name)
                error_bar(axis, place, found, COLORS[UNKNOWN], marker=UNKNOWN_LOOKS[0])
            _even(axis.axhline, suite, measure)
        labels = [budget_label(p, e) if e else "standard" for e in budgets]
        labels += map(_short, others)
        column[-1].set_xticks(range(len(labels)), labels)
        for tick in column[-1].get_xticklabels()[len(budgets) :]:
            tick.set(rotation=40, ha="right", rotation_mode="anchor", size=8, color=COLORS[UNKNOWN])
        column[-1].set_xlabel("training budget ε")
        column[0].set_title(f"{norm_label(p)} adversarial training")
    for axis, measure in zip(axes[:, 0], measures, strict=True):
        axis.set_ylabel(_label(measure))
    extra = [_mark(plt, "x", label="paper")] if any(m.paper for m in measures) else []
    if any(m.even and suite.has(m.even) for m in measures):
        extra.append(_mark(plt, "none", ":", label="area off the core", linewidth=1))
    if others:
        look = {"label": "unknown training", "color": COLORS[UNKNOWN]}
        extra.append(_mark(plt, UNKNOWN_LOOKS[0], **look))
    _legend(figure, plt, suite, extra)
    return figure


def by_accuracy(suite, measures, plt):
    """A panel a ratio: its one accuracy against the other, one point a model."""
    figure, axes = plt.subplots(1, len(measures), figsize=(4.6 * len(measures), 4.2), squeeze=False)
    looks = dict(zip(_unknown(suite, measures), itertools.cycle(UNKNOWN_LOOKS), strict=False))
    for axis, measure in zip(axes[0], measures, strict=True):
        accuracy = measure._replace(over=None)
        for look, arch in enumerate(suite.archs()):
            marker, line = _look(look)
            base = suite.baseline(measure, arch)
            for p in (STANDARD, *suite.norms()):
                x, y = (suite.curve(m, arch, p) for m in (measure.over, accuracy))
                for epsilon, slope in suite.curve(measure, arch, p).items():
                    face = COLORS[p] if p == STANDARD or _clear(slope, base) else "white"
                    at = PERCENT * x[epsilon].value
                    options = {"marker": marker, "markerfacecolor": face, "markersize": 5}
                    across = _lengths(x[epsilon])
                    error_bar(axis, at, y[epsilon], COLORS[p], xerr=across, **options)
            if math.isfinite(base.value):
                start = [PERCENT * suite.baseline(m, arch).value for m in (measure.over, accuracy)]
                axis.axline(start, slope=base.value, color=COLORS[STANDARD], linestyle=line, lw=1)
        for name in suite.points(measure):
            x, y = (suite.estimate(m, name) for m in (measure.over, accuracy))
            options = {"marker": looks[name], "markersize": 6, "xerr": _lengths(x)}
            error_bar(axis, PERCENT * x.value, y, COLORS[UNKNOWN], **options)
        axis.set_xlabel(f"{measure.over.title} {measure.over.name} (%)")
        axis.set_ylabel(f"{measure.title} {accuracy.metric.replace('_', ' ')} (%)")
    others = [_mark(plt, m, label=_short(n), color=COLORS[UNKNOWN]) for n, m in looks.items()]
    _legend(figure, plt, suite, _kind_marks(suite.kinds(), plt) + others)
    return figure


def _curve(axis, suite, measure, arch, p, look, budgets):
    """The numbers of one architecture at their places among the budgets, and its baseline."""
    marker, line = _look(look)
    base = suite.baseline(measure, arch)
    if math.isfinite(base.value):
        color = COLORS[STANDARD]
        axis.axhspan(PERCENT * base.low, PERCENT * base.high, color=color, alpha=0.15, lw=0)
        axis.axhline(PERCENT * base.value, color=color, linestyle=line, linewidth=1)
    shift = 0.2 * (look - (len(suite.archs()) - 1) / 2)  # error bars beside each other
    curve = {e: (STANDARD, found) for e, found in suite.seeds(measure, arch, STANDARD).items()}
    curve |= {e: (p, found) for e, found in suite.seeds(measure, arch, p).items()}
    places = [budgets.index(e) + shift for e in curve]
    means = [mean_estimate(found) for _, found in curve.values()]
    axis.plot(places, [PERCENT * e.value for e in means], color=COLORS[p], linestyle=line, lw=1.2)
    for x, mean, (norm, found) in zip(places, means, curve.values(), strict=True):
        face = COLORS[norm] if norm == STANDARD or _clear(mean, base) else "white"
        options = {"marker": marker, "markerfacecolor": face, "markersize": 5}
        error_bar(axis, x, mean, COLORS[norm], **options)
        if len(found) > 1:
            values = [PERCENT * e.value for e in found]
            axis.plot([x] * len(found), values, ".", color="black", markersize=3)
    for (of_arch, of_norm, epsilon), value in measure.paper:
        if of_arch == arch and of_norm in (STANDARD, p) and epsilon in budgets:
            at = budgets.index(epsilon) + shift
            axis.plot(at, PERCENT * value, "x", color="black", markersize=6, zorder=5)


def _budgets(suite, measures, p):
    """All training budgets recorded for a norm, with 0 of standard models, ascending."""
    found = (
        suite.curve(m, a, norm) for m in measures for a in suite.archs() for norm in (STANDARD, p)
    )
    return sorted(set().union(*found))


def _clear(estimate, base):
    gap = difference(estimate, base)
    return gap.low > 0 or gap.high < 0


def _short(name):
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def _grid(plt, count, width, height, **options):
    """(figure, axes) of `count` panels of this size, BARS_PER_ROW a row."""
    rows, columns = math.ceil(count / BARS_PER_ROW), min(count, BARS_PER_ROW)
    size = (width * columns, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for axis in axes.flat[count:]:
        axis.remove()
    return figure, axes


def _even(draw_line, suite, measure):
    """A line at what the measure would be of a model that tells no regions apart."""
    if measure.even and suite.has(measure.even):
        numbers = (suite.estimate(measure.even, m.name).value for m in suite.models)
        value = PERCENT * next(filter(math.isfinite, numbers))  # a fact of the images
        draw_line(value, color="black", linestyle=":", linewidth=1)


def _unknown(suite, measures):
    """The names of the models of unknown training that have any of the numbers."""
    return list(dict.fromkeys(name for m in measures for name in suite.points(m)))


def _kind_marks(kinds, plt):
    return [
        plt.Line2D([], [], color=COLORS.get(p, OTHER), linewidth=4, label=training_label(p))
        for p in kinds
    ]


def _look(index):
    return LOOKS[index % len(LOOKS)]


def _label(measure):
    name = textwrap.fill(f"{measure.name} ({measure.unit})", 30)
    return f"{measure.title}\n{name}"


def _legend(figure, plt, suite, extra):
    """Names of the architectures, the hollow marker and what else the figure has, on top."""
    handles = [
        _mark(plt, *_look(i), label=arch, markersize=5) for i, arch in enumerate(suite.archs())
    ]
    hollow = {"markerfacecolor": "white", "label": "not clearly different from standard"}
    handles += [_mark(plt, "o", **hollow), *extra] if handles else extra
    columns = int(figure.get_figwidth() // 2)  # the widest entry takes about 2 inches
    place = {"loc": "outside upper center", "ncols": columns}
    figure.legend(handles=handles, fontsize=9, handlelength=2.6, **place)


def _mark(plt, marker, line="none", **options):
    options = {"color": "black"} | options
    return plt.Line2D([], [], marker=marker, linestyle=line, **options)


def _lengths(estimate):
    below, above = max(estimate.value - estimate.low, 0), max(estimate.high - estimate.value, 0)
    return [[PERCENT * below], [PERCENT * above]]


def error_bar(axis, x, estimate, color, **options):
    """A marker at an Estimate, and its interval."""
    y, lengths = [PERCENT * estimate.value], _lengths(estimate)
    axis.errorbar([x], y, yerr=lengths, color=color, capsize=2, elinewidth=1, **options)
