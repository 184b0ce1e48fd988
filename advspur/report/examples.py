"""Example images: what a mask and a background gap are, and what models look at."""

import zipfile
from pathlib import Path
from urllib.parse import unquote

import matplotlib.pyplot as plt
import numpy as np

from advspur._checks import InputError
from advspur._files import readable
from advspur.report.headlines import all_headlines, title_of
from advspur.report.matrix import shown

RIGHT, WRONG = "#1a7f43", "#b3261e"
BY = ("background_gap", "norm_fraction_spurious", "majority_minority_gap")  # in this order
INCHES = 1.5
CAPTION = "Evenly spaced images, not chosen; green predictions are right, red ones wrong."
GAP = (
    "A background gap is the accuracy on {0} minus that on {1}: the same objects on other "
    "backgrounds."
)
MASKS = (
    "White: the outline of the core. Maps: the length of the input gradient of the margin, each "
    "scaled to its own maximum; deep NFS is the share of its square that is off the core."
)


def example_figures(suite, directory):
    """(file name, title, figure, caption, no labels) of each benchmark with saved examples."""
    for folder in sorted(Path(directory, "examples").glob("*/")):
        benchmark = unquote(folder.name)
        paths = {unquote(path.stem): path for path in folder.glob("*.npz")}
        names, headline = _extremes(suite, benchmark, paths)
        if names:
            saved = {name: _read(paths[name]) for name in names}
            first = saved[names[0]]
            text = [CAPTION, _models(suite, names, headline)]
            text += [GAP.format(*first["part"][-2:])] * (len(first["part"]) > 1)
            text += [MASKS] * ("core" in first)
            title = f"Example images: {title_of(benchmark)}"
            yield f"examples_{folder.name}", title, _figure(saved), " ".join(text), set()


def _extremes(suite, benchmark, names):
    """([the least and the most reliant of these models], the headline that says so)."""
    for metric in BY:
        for headline in all_headlines(suite):
            if (headline.benchmark, headline.metric) == (benchmark, metric):
                numbers = {n: e.value for n, e in suite.numbers(headline).items() if n in names}
                if numbers:
                    ordered = sorted(numbers, key=numbers.get)
                    return list(dict.fromkeys([ordered[0], ordered[-1]])), headline
    return [], None


def _models(suite, names, headline):
    """The text that says which models are shown, and why."""
    shown_names = [f"{n} ({shown(suite.estimate(headline, n), headline)})" for n in names]
    if len(names) == 1:
        return f"Model: {shown_names[0]}, {headline.name}."
    return "The least and the most reliant model by {}: {} and {}.".format(
        headline.name, *shown_names
    )


def _read(path):
    """The content of a file of `benchmarks.examples.save_examples`."""
    try:
        with readable(path), path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            return dict(content)
    except (ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}): delete it") from error


def _figure(saved):
    """A row an image: each part with the models' predictions, and each model's gradient."""
    first = next(iter(saved.values()))
    parts, images, has_masks = first["part"], first["image"], "core" in first
    columns = [part.replace("_", " ") for part in parts]
    columns += [f"gradient of\n{name}" for name in saved if has_masks]
    size = (INCHES * len(columns), (INCHES - 0.1 + 0.15 * len(saved)) * len(first["label"]) + 0.4)
    figure, axes = plt.subplots(len(first["label"]), len(columns), figsize=size, squeeze=False)
    for column, title in enumerate(columns):
        axes[0, column].set_title(title, fontsize=8.5)
    for row, label in enumerate(first["label"]):
        axes[row, 0].set_ylabel(label, fontsize=9)
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
        look = {"color": RIGHT if predicted == label else WRONG, "fontsize": 8}
        place = {"xycoords": "axes fraction", "ha": "center", "va": "top"}
        axis.annotate(who[line] + predicted, (0.5, -0.04 - 0.12 * line), **place, **look)
