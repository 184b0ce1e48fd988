"""A few images of a data set as one model sees them, saved for the report."""

import io

import jax.numpy as jnp
import numpy as np

from advspur._files import write_whole
from advspur.data.masks import mask_regions
from advspur.data.table import spread
from advspur.measures import Regions
from advspur.measures.regions import margin_gradient
from advspur.norms import lp_norm
from advspur.predict import for_each_example, logits

NUM_EXAMPLES = 4


def save_examples(model, measures, path):
    """Write a few evenly spaced images with predictions, input gradients and masks to an npz file.

    The file has `image` [v, n, h, w, 3] uint8, the names `part` [v], `prediction` [v, n] and
    `label` [n]; and, if the first part has masks, `core` [n, h, w] uint8, as measured, and
    `gradient` [n, h, w] uint8: the l2 norm over the colours of the margin's gradient, scaled to a
    largest value of 255 per image.

    Args:
      model: a Classifier with the classes of the data.
      measures: {measure: ({part: Table}, its options)}, as in a `Plan`; without regions and
        background gaps no file is written.
      path: of the file.
    """
    tables, of_masks = _tables(measures)
    if not tables:
        return
    first = next(iter(tables.values()))
    rows = spread(len(first), NUM_EXAMPLES)

    def function(batch, _):
        shown = {"logits": logits(model, batch.image), "label": batch.label, "image": batch.image}
        if of_masks is not None and batch.mask.shape[1:3] == batch.image.shape[1:3]:
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
        part=np.array(list(tables)),
        image=stacked("image"),
        label=names[outcomes[0]["label"]],
        prediction=names[np.minimum(stacked("logits").argmax(-1), len(names) - 1)],
        **{name: outcomes[0][name] for name in ("core", "gradient") if name in outcomes[0]},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getvalue())


def _tables(measures):
    """Return ({part: Table} to show, first those with masks; the options of the masks or None)."""
    tables, of_masks = {}, None
    if "regions" in measures:
        parts, options = measures["regions"]
        tables, of_masks = dict([next(iter(parts.items()))]), Regions(**options).of_masks
    if "background_gaps" in measures:
        parts, options = measures["background_gaps"]
        gap = {options[name]: parts[options[name]] for name in ("same", "rand")}
        pairs = [t.columns.get("pair") for t in (tables | gap).values()]
        if all(pair is not None and np.array_equal(pair, pairs[-1]) for pair in pairs):
            tables |= gap
    return tables, of_masks


def _eight_bit(values):
    return (255 * values).astype(jnp.uint8)
