"""A few images of a data set as one model sees them, saved for the report."""

import hashlib
import io
import re

import jax.numpy as jnp
import numpy as np

from advspur._files import write_whole
from advspur.data.masks import mask_regions
from advspur.data.table import spread
from advspur.measures.regions import Regions, margin_gradient
from advspur.norms import lp_norm
from advspur.predict import for_each_example, logits

NUM_EXAMPLES = 4
EXPLAINED = {"background_gaps", "regions"}  # measures that the images explain
LONGEST = 80  # characters of a name that its file keeps


def save_examples(model, row, plan, folder, name):
    """Write a few evenly spaced images with predictions, input gradients and masks to an npz file.

    The file has the names `benchmark` and `model`; `image` [v, n, h, w, 3] uint8 with the names
    `part` [v], `prediction` [v, n] and `label` [n]; and `gap`, the two parts of a background gap,
    if there is one. If the first part has masks: `core` [n, h, w] uint8, as measured, and
    `gradient` [n, h, w] uint8, the l2 norm over the colours of the margin's gradient, scaled to a
    largest value of 255 per image.

    Args:
      model: a Classifier with the classes of the data.
      row: a Benchmark.
      plan: its `Plan`. Without masks and without a background gap no file is written.
      folder: of the row's files, created if necessary.
      name: of the model, with any characters.
    """
    tables, gap, of_masks = _tables(row, plan)
    if not tables:
        return
    first = next(iter(tables.values()))
    rows = spread(len(first), NUM_EXAMPLES)

    def function(batch, _):
        shown = {"logits": logits(model, batch.image), "label": batch.label, "image": batch.image}
        if of_masks and batch.mask.shape[1:3] == batch.image.shape[1:3]:
            gradient = lp_norm(margin_gradient(model, batch.image, batch.label), 2, axis=-1)
            largest = jnp.max(gradient, axis=(1, 2), keepdims=True)
            scaled = gradient / jnp.where(largest > 0, largest, 1)
            core, _ = mask_regions(batch.mask, **of_masks)
            shown |= {"gradient": _eight_bit(scaled), "core": _eight_bit(core[..., 0])}
        return shown

    outcomes = [
        for_each_example(function, table.subset(rows), batch_size=len(rows))
        for table in tables.values()
    ]
    names = first.names.get("label") or [f"class {label}" for label in range(first.num_classes)]
    names = np.array([*names, "another class"])  # class maps may have one output for the rest

    def stacked(name):
        return np.stack([of_part[name] for of_part in outcomes])

    content = io.BytesIO()
    np.savez_compressed(
        content,
        benchmark=np.array(row.name),
        model=np.array(name),
        part=np.array(list(tables)),
        gap=np.array(gap),
        image=stacked("image"),
        label=names[outcomes[0]["label"]],
        prediction=names[np.minimum(stacked("logits").argmax(-1), len(names) - 1)],
        **{name: outcomes[0][name] for name in ("core", "gradient") if name in outcomes[0]},
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{file_stem(name)}.npz", content.getvalue())


def file_stem(name):
    """A file name for a model or a benchmark; long names and those with other characters differ by
    a digest."""
    stem = re.sub(r"[^\w.@=+-]", "_", name, flags=re.ASCII)[:LONGEST]
    return stem if stem == name else f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _tables(row, plan):
    """({part: Table} to show, those of a background gap, options of the masks of the first)."""
    options = plan.options["regions"]
    asked = options["parts"] or row.parts(plan.parts)
    tables = {p: plan.parts[p] for p in asked if p in plan.parts and plan.parts[p].has_mask}
    tables, of_masks = dict(list(tables.items())[:1]), {}
    if tables:
        of_regions = {name: value for name, value in options.items() if name != "parts"}
        of_masks = Regions(**of_regions).of_masks
    gap = [plan.options["background_gaps"][name] for name in ("same", "rand")]
    if all(part in plan.parts for part in gap):
        others = {part: plan.parts[part] for part in gap}
        pairs = [table.columns.get("pair") for table in (tables | others).values()]
        if all(pair is not None and np.array_equal(pair, pairs[-1]) for pair in pairs):
            return tables | others, gap, of_masks
    return tables, [], of_masks


def _eight_bit(values):
    return (255 * values).astype(jnp.uint8)
