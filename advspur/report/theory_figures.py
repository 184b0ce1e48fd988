"""Figures of the linear theory: in the layout of the paper's Figures 2 to 4, and of weights."""

import math

import matplotlib.pyplot as plt
import numpy as np

from advspur.report.panels import COLORS, grid
from advspur.report.suite import norm_label

DARKEST, LIGHTEST = 0.05, 0.88  # of viridis: its yellow end is lost on white
MARGIN = 0.6
SIZE = (3.4, 3.0, MARGIN)
READINGS = {
    "R1": "R1: to the scaled rows",
    "R2": "R2: before the scaling",
    "R3": "R3: before the normalisation",
}


def theory_figures(theory):
    """Yield (file name, title, figure, caption) for the arrays that `read_theory` found."""
    for source, arrays in theory.items():
        for name, draw in FIGURES[source].items():
            yield f"theory_{name}", None, *draw(arrays)


def _nfs(a):
    titles = [f"{norm_label(p)} adversary" for p in a["norms"]]
    figure, axes = _panels(titles, "budget ε (units of the features)", sharey=True)
    for i, axis in enumerate(axes):
        for j, (eta, color) in enumerate(zip(a["etas"], _shades(a["etas"]), strict=True)):
            nfs, end = a["nfs"][i, j], (a["collapse_radius"][i, j], a["limit_nfs"][i, j])
            alive = ~np.isnan(nfs)
            x = np.append(a["epsilons"][i][alive], end[0])
            axis.plot(x, np.append(nfs[alive], end[1]), color=color, label=f"{eta:g}")
            axis.plot(*end, "o", color=color, markersize=4, clip_on=False)
        axis.set_xlim(left=0)
        axis.set_ylim(-0.02, 1)
        if np.nanmax(a["nfs"][i], initial=0) == 0:
            axis.text(0.5, 0.1, "0 for every η", transform=axis.transAxes, ha="center")
    _name_lines(figure, axes, "η")
    return figure, (
        "Norm fraction spurious (NFS) of the exact minimiser against the training budget (layout "
        "of the paper's Figure 2). Each line ends with a dot at the collapse radius, from which "
        "on the model is 0."
    )


def _scale(a):
    both = zip(a["etas"], a["critical_scale"], strict=True)
    titles = [f"η = {eta:g}, threshold {threshold:.3g}" for eta, threshold in both]
    figure, axes = _panels(titles, "scale of the spurious features", sharey=True)
    alive = (a["epsilons"] > 0) & np.all(~np.isnan(a["nfs"]), axis=(0, 1))
    chosen = _spread(np.flatnonzero(alive), 6)
    for i, (axis, threshold) in enumerate(zip(axes, a["critical_scale"], strict=True)):
        for n, color in zip(chosen, _shades(chosen), strict=True):
            label = f"{a['epsilons'][n]:.3g}"
            axis.plot(a["scales"], a["nfs"][i, :, n], color=color, label=label)
        if threshold <= a["scales"].max():
            axis.axvline(threshold, color=COLORS[0.0], linestyle="--", linewidth=1)
        axis.set_ylim(-0.02, 1.02)
    _name_lines(figure, axes, "budget ε")
    return figure, (
        "NFS of the ℓ∞ model against the scale of the spurious features (layout of Figure 3), for "
        "budgets below the smallest collapse radius. Dashed: the threshold in closed form, above "
        "which they are used."
    )


def _phase(a):
    figure, (axis,) = grid(1, 5.6, 3.8, MARGIN)
    x, y = a["phase_etas"], a["phase_scales"]
    used = np.where(np.isnan(a["phase_used_from"]), math.nan, 1)
    share = a["phase_one_from"] / a["phase_collapse_radius"]
    axis.grid(visible=False)
    axis.pcolormesh(x, y, used.T, cmap="Greys", vmin=0, vmax=6, shading="nearest")
    mesh = axis.pcolormesh(x, y, share.T, cmap="viridis", vmin=0, vmax=1, shading="nearest")
    axis.plot(x, a["phase_critical_scale"], color="black", linestyle="--", linewidth=1.2)
    axis.set(xlabel="spurious correlation η", ylabel="scale of the spurious features")
    axis.set_ylim(y.min(), y.max())
    figure.colorbar(mesh, label="budget from which NFS = 1,\nas a share of the collapse radius")
    return figure, (
        "Where the ℓ∞ model uses spurious features at some budget; the colour shows the budget "
        "from which it uses nothing else. White: never used. Grey, if any: used, but never alone. "
        "Dashed: the threshold in closed form. The core features have scale 1."
    )


def _shift(a):
    figure, axes = _panels(_titles_with_scale(a), "standard deviation σ of the shift")
    for i, axis in enumerate(axes):
        alive = np.flatnonzero(np.any(a["theta"][i, :, 1] != 0, axis=-1))
        chosen = _spread(alive, 3)
        for n, color in zip(chosen, _shades(chosen), strict=True):
            core, total = a["loss"][0, i, n].T
            low, high = a["mc_low"][0, i, n, :, 1], a["mc_high"][0, i, n, :, 1]
            axis.fill_between(a["shift_stds"], low, high, color=color, alpha=0.15, linewidth=0)
            axis.plot(a["shift_stds"], core, color=color, linestyle="--")
            label = f"ε = {a['epsilons'][i, n]:.3g}"
            axis.plot(a["shift_stds"], total, color=color, label=label)
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}
        axis.legend(**place, ncols=3, fontsize=8, handlelength=1, columnspacing=1)
    axes[0].set_ylabel("expected standard loss")
    styles = [plt.Line2D([], [], color="black", linestyle=s) for s in ("-", "--")]
    figure.legend(styles, ["total", "core"], loc="outside right upper")
    mean, error, loss = (a[name][..., 1] for name in ("mc_mean", "mc_error", "loss"))
    # Where nothing is random the error is rounding.
    furthest = np.max(np.abs(mean - loss) / np.where(error > 1e-9, error, math.inf))
    return figure, (
        "Standard loss when noise breaks the spurious correlations (layout of Figure 4), "
        f"η = {a['eta']:g}, with the noise added to the scaled rows of Q (reading R1). Lines: "
        f"closed form, at most {furthest:.1f} standard errors from the means of "
        f"{int(a['num_draws'])} draws. Band: 5% to 95% of the draws, total model."
    )


def _readings(a):
    figure, (axis,) = grid(1, 4.6, 3.2, MARGIN)
    i = int(np.argmax(a["norms"]))
    rise = a["loss"][:, i, :, :, 1] - a["loss"][:, i, :, :1, 1]
    n = int(np.argmax(np.max(rise[..., -1], axis=0)))
    for reading, change, color in zip(a["readings"], rise[:, n], COLORS.values(), strict=False):
        shown = change > 0  # a logarithm has no 0
        label = READINGS.get(str(reading), str(reading))
        axis.plot(a["shift_stds"][shown], change[shown], color=color, label=label)
    axis.set(xlabel="standard deviation σ of the shift", ylabel="rise of the expected loss")
    axis.set_yscale("log")
    axis.legend(fontsize=8)
    return figure, (
        "How much the shift costs the total model, for three readings of where the noise is added. "
        f"{norm_label(a['norms'][i])}, scale {a['scales'][i]:g}, budget {a['epsilons'][i, n]:.3g} "
        f"(where it costs most); the loss without the shift is {a['loss'][0, i, n, 0, 1]:.2f}."
    )


def _weights(a):
    finite = np.isfinite(a["weights"])
    w, one = a["weights"][finite], np.flatnonzero(a["weights"] == 1)
    figure, axes = _panels(_titles_with_scale(a), "budget ε / core-only collapse")
    for i, axis in enumerate(axes):
        share, clean = a["epsilons"][i] / a["epsilons"][i].max(), a["clean_loss"][i]
        # A collapsed model uses no feature.
        nfs = np.nan_to_num(a["nfs"][i][finite])
        shown = {"cmap": "viridis_r", "shading": "nearest", "vmin": -6, "vmax": 0}
        mesh = axis.pcolormesh(share, w, np.log10(np.maximum(nfs, 1e-12)), **shown)
        ratio = clean[finite] / clean[one]
        axis.contour(share, w, ratio, [1 - 1e-6], colors="white", linewidths=1)
        axis.plot(share, a["protective_weight"][i], color=COLORS[0.0], linestyle="--")
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_yscale("log")
        axis.set_ylim(w.min(), w.max())
    axes[0].set_ylabel("weight w of the spurious features")
    figure.colorbar(mesh, ax=axes, label="log10 NFS")
    return figure, (
        "NFS against the training budget and the weight of the spurious features in the attack, "
        f"η = {a['eta']:g}; w = 1 (line) is the paper's attack. Dashed: the smallest weight at "
        "which they are not used, in closed form; ℓ1 and ℓ2 have none below the collapse radius. "
        "White: border of the region with a lower clean loss than at w = 1."
    )


def _price(a):
    figure, axes = _panels(_titles_with_scale(a), "weight w of the spurious features", sharey=True)
    finite, one = np.isfinite(a["weights"]), np.flatnonzero(a["weights"] == 1)
    w, end = a["weights"][finite], a["weights"][finite].max() * 1.6
    for i, axis in enumerate(axes):
        chosen = _spread(np.arange(len(a["epsilons"][i]) - 1), 4)
        for n, color in zip(chosen, _shades(chosen), strict=True):
            share = a["epsilons"][i, n] / a["epsilons"][i].max()
            for name, style in (("clean_loss", "-"), ("core_loss", "--")):
                loss = a[name][i, :, n] / a[name][i, one, n]
                label = f"{share:.2f}" if style == "-" else None
                axis.plot(w, loss[finite], style, color=color, label=label)
                axis.plot(end, loss[~finite], "o", color=color, markersize=4, clip_on=False)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_yscale("log")
    axes[0].set_ylabel("loss / loss at w = 1")
    legend = {"loc": "outside right upper", "title": "ε, share of\ncollapse"}
    figure.legend(*axes[0].get_legend_handles_labels(), **legend)
    return figure, (
        "What it costs not to use spurious features: clean loss (lines) and loss under the attack "
        "on the core features alone (dashed), divided by those of the model trained at w = 1. "
        "Dots: w = ∞, the best model of the core features. Below 1, the weight helps."
    )


def _titles_with_scale(a):
    both = zip(a["norms"], a["scales"], strict=True)
    return [f"{norm_label(p)} adversary, scale {scale:g}" for p, scale in both]


FIGURES = {  # {file of arrays: {file of the figure: function}}
    "nfs": {"nfs": _nfs},
    "scale": {"scale": _scale, "phase": _phase},
    "shift": {"shift": _shift, "readings": _readings},
    "weights": {"weights": _weights, "price": _price},
}


def _panels(titles, xlabel, **options):
    figure, axes = grid(len(titles), *SIZE, **options)
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel=xlabel)
    return figure, axes


def _name_lines(figure, axes, title):
    figure.supylabel("NFS", fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", title=title)


def _shades(ordered):
    return plt.get_cmap("viridis")(np.linspace(LIGHTEST, DARKEST, len(ordered)))


def _spread(indices, count):
    """At most `count` of the indices, evenly spaced and including the last."""
    places = np.linspace(0, len(indices), count + 1)[1:].astype(int) - 1
    return indices[np.unique(np.maximum(places, 0))]
