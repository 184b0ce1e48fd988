"""Example images: masks, the backgrounds that a gap compares, and input gradients."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from advspur._checks import InputError, first_line
from advspur.report.headlines import SHAPES, all_headlines, title_of
from advspur.report.matrix import shown

RIGHT, WRONG = "#1a7f43", "#b3261e"
BY = ("background_gap", "norm_fraction_spurious", "majority_minority_gap")  # first recorded one
SAME = ("part", "label", "image")  # must agree in the files of two models shown together
INCHES = 1.5
CAPTION = "Evenly spaced images, not chosen; green predictions are right, red ones wrong."
GAP = (
    "The background gap is accuracy on {0} minus accuracy on {1}: the same objects on different "
    "backgrounds."
)
MASKS = (
    "White: the outline of the core. Maps: the norm of the input gradient of the margin at each "
    "pixel, scaled to its maximum; deep NFS is the share of its square that is off the core."
)
LICENCE = "These images are from the data set: check its licence before you share this page."


def example_figures(suite, directory):
    """Yield (file name, title, figure, caption, no labels) for benchmarks with examples."""
    for folder in sorted(Path(directory, "examples").glob("*/")):
        saved = {str(content["model"]): content for content in map(_read, folder.glob("*.npz"))}
        benchmark = str(next(iter(saved.values()))["benchmark"]) if saved else ""
        names, headline = _extremes(suite, benchmark, saved)
        if names:
            shown_models = {name: saved[name] for name in names}
            first = saved[names[0]]
            text = [CAPTION, _models(suite, names, headline)]
            text += [GAP.format(*first["gap"])] * bool(first["gap"].size)
            text += [MASKS] * ("core" in first) + [LICENCE] * (benchmark != SHAPES)
            title = f"Example images: {title_of(benchmark)}"
            figure = _figure(shown_models)
            yield f"examples_{folder.name}", title, figure, " ".join(text), set()


def _extremes(suite, benchmark, saved):
    """([the least reliant model, the most reliant one], the headline that orders them).

    The least reliant one alone if their files show different images.
    """
    for metric in BY:
        for headline in all_headlines(suite):
            if (headline.benchmark, headline.metric) == (benchmark, metric):
                numbers = {n: e.value for n, e in suite.numbers(headline).items() if n in saved}
                if numbers:
                    ordered = sorted(numbers, key=numbers.get)
                    least, most = ordered[0], ordered[-1]
                    is_pair = least != most and _are_alike(saved[least], saved[most])
                    return [least, most] if is_pair else [least], headline
    return [], None


def _are_alike(one, other):
    """Do two files show the same images?"""
    same = all(np.array_equal(one[name], other[name]) for name in SAME)
    return same and one.keys() == other.keys()


def _models(suite, names, headline):
    """Say which models are shown, and why."""
    shown_names = [f"{n} ({shown(suite.estimate(headline, n), headline)})" for n in names]
    if len(names) == 1:
        return f"Model: {shown_names[0]}, {headline.name}."
    return "The least and the most reliant model by {}: {} and {}.".format(
        headline.name, *shown_names
    )


def _read(path):
    """The content of a file written by `measures.examples.save_examples`."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            return {name: content[name] for name in ("benchmark", "model", "gap")} | dict(content)
    except Exception as error:  # numpy raises errors of many types on damaged bytes
        raise InputError(f"{path} is damaged ({first_line(error)}): delete it") from error


def _figure(saved):
    """A row an image: each part with the models' predictions, and each model's gradient."""
    first = next(iter(saved.values()))
    parts, images, has_masks = first["part"], first["image"], "core" in first
    columns = [part.replace("_", " ") for part in parts]
    columns += [f"gradient of\n{name}" for name in saved if has_masks]
    size = (INCHES * len(columns), (INCHES - 0.1 + 0.15 * len(saved)) * len(first["label"]) + 0.4)
    figure, axes = plt.subplots(len(first["label"]), len(columns), figsize=size, squeeze=False)
    for column, title in enumerate(columns):
        axes[0, column].set_title(title, fontsize=8.5, parse_math=False)
    for row, label in enumerate(first["label"]):
        axes[row, 0].set_ylabel(label, fontsize=9, parse_math=False)
        for column in range(len(parts)):
            axes[row, column].imshow(images[column, row])
            predictions = [content["prediction"][column, row] for content in saved.values()]
            _write_predictions(axes[row, column], predictions, label)
        for column, content in enumerate(saved.values() if has_masks else (), start=len(parts)):
            axes[row, column].imshow(content["gradient"][row], cmap="magma", vmin=0, vmax=255)
        for axis in axes[row, [0, *range(len(parts), len(columns))]] if has_masks else ():
            axis.contour(first["core"][row], [127.5], colors="white", linewidths=1)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
    return figure


def _write_predictions(axis, predictions, label):
    """Write the predictions of one or two models below an image, in the colour of their verdict."""
    who = ("least: ", "most: ") if len(predictions) > 1 else ("",)
    for line, predicted in enumerate(predictions):
        color = RIGHT if predicted == label else WRONG
        look = {"color": color, "fontsize": 8, "parse_math": False}
        place = {"xycoords": "axes fraction", "ha": "center", "va": "top"}
        axis.annotate(who[line] + predicted, (0.5, -0.04 - 0.12 * line), **place, **look)
