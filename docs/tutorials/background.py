"""
Is my model relying on the background?
======================================

You have a classifier and images whose background you know something about: a column that names it,
masks of the objects, or the same objects on other backgrounds. Three things can be measured then:

- the **majority-minority gap**: how much accuracy drops where the background is not the usual one,
- the **background gap**: how much it drops when the background is replaced,
- **deep NFS**: the share of the squared input gradient that is off the object.

This page runs in less than a minute on two CPU cores. To use it on your own work, replace steps 1
and 2.
"""

# %%
# 1. A model
# ----------
#
# Any JAX function, Flax module or torch module will do. Here it is a small Flax network, trained as
# anybody would train it, with no idea of what this package does.

import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from PIL import Image

from advspur import benchmarks, data, models


class Network(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(3, 16, (5, 5), strides=2, rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.last = nnx.Linear(8 * 8 * 32, 8, rngs=rngs)

    def __call__(self, images):
        hidden = jax.nn.relu(self.second(jax.nn.relu(self.first(images))))
        return self.last(hidden.reshape(len(hidden), -1))


@nnx.jit
def update(network, optimizer, images, labels):
    def loss(network):
        logits = network(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimizer.update(network, nnx.grad(loss)(network))


table = data.spurious_shapes("train", num_examples=4000)
train, classes = table.columns, table.names["label"]
network = Network(nnx.Rngs(0))
optimizer = nnx.Optimizer(network, optax.adam(2e-3), wrt=nnx.Param)
order = np.random.default_rng(0).permutation(4000)
for batch in np.tile(order, 6).reshape(-1, 100):
    images = train["image"][batch].astype(np.float32) / 255 - 0.5
    update(network, optimizer, images, train["label"][batch])

# %%
# `from_flax` wraps it. Images go in as [n, h, w, 3] in [0, 1], so the model must say how they were
# normalised in training (here 0.5 was subtracted), and which output is which class.

model = models.from_flax(
    network, mean=(0.5,) * 3, std=(1.0,) * 3, image_size=32, class_names=classes, name="mine"
)

# %%
# 2. Data
# -------
#
# A folder with a table. Only `image` and `label` are required; every other column allows more to be
# measured: `place` makes groups, `mask` makes regions, and `variant` with `pair` says which images
# show the same object on another background. The tables of WILDS and class folders are read as they
# are.

folder = Path(tempfile.mkdtemp()) / "shapes"
folder.mkdir()
lines = ["image,label,place,variant,pair,mask"]
for variant in ("test", "mixed_same", "mixed_rand"):
    rows = data.spurious_shapes(variant, num_examples=300).columns
    for i in range(300):
        image, mask = f"{variant}_{i}.png", f"{variant}_{i}_mask.png"
        Image.fromarray(rows["image"][i]).save(folder / image)
        Image.fromarray(255 * rows["mask"][i, ..., 0].astype(np.uint8)).save(folder / mask)
        label, place = classes[rows["label"][i]], f"like a {classes[rows['background'][i]]}'s"
        lines.append(f"{image},{label},{place},{variant},{i},{mask}")
(folder / "manifest.csv").write_text("\n".join(lines))
print("\n".join(lines[:3]))

# %%
# 3. The measurements
# -------------------
#
# `own_benchmark` reads the folder and makes every measurement that its columns allow. With a part
# `train` in the table, the majority groups are those more frequent there than if label and place
# were independent. This table has none, so we name them: the groups with the usual background.

shapes = benchmarks.own_benchmark(folder)
options = {
    "data": {"majority": [f"{c}, like a {c}'s" for c in classes]},
    "regions": {"num_attacked": 0, "linf_noise_levels": ()},  # no attacks and no noise: quick
    "measures": ("accuracy", "groups", "background_gaps", "regions"),
}
records = shapes.evaluate(model, batch_size=100, key=jax.random.key(0), **options)
numbers = {r.metric: r for r in records if r.options.get("part", "test") == "test"}
reliance = ("majority_minority_gap", "background_gap", "norm_fraction_spurious", "spurious_area")
for name in ("accuracy", "majority_accuracy", "minority_accuracy", *reliance):
    r = numbers[name]
    print(f"{name:24} {r.value:.3f}  [{r.low:.3f}, {r.high:.3f}]  n = {r.num_examples}")

# %%
# 4. What they say
# ----------------
#
# Every number has a 95% interval and the number of images behind it. A majority-minority gap or a
# background gap whose interval excludes 0 says that the background matters. Deep NFS is compared
# with `spurious_area`, what it would be if the model used all pixels equally.

parts = data.own(folder, image_size=32, resize="none")
figure, axes = plt.subplots(
    1, 4, figsize=(9, 2.4), width_ratios=(1, 1, 1, 2.6), layout="constrained"
)
for axis, (part, rows) in zip(axes, parts.items(), strict=False):
    axis.imshow(rows[4]["image"])
    axis.set(title=part.replace("_", " "), xticks=[], yticks=[])
axes[0].contour(parts["test"][4]["mask"][..., 0], [127], colors="white")
for y, name in enumerate(reliance):
    r = numbers[name]
    axes[3].plot([100 * r.low, 100 * r.high], [y, y], color="grey")
    axes[3].plot(100 * r.value, y, "o")
axes[3].set_yticks(range(4), [name.replace("_", " ") for name in reliance])
axes[3].invert_yaxis()
axes[3].set_xlabel("points, or % of the squared gradient")
axes[3].axvline(0, color="black", linewidth=0.8)
plt.show()

# %%
# 5. The same from the command line, with a report
# ------------------------------------------------
#
# Put the model into a file, `my_models.py`, as a function without arguments that returns it. Then
#
# .. code-block:: bash
#
#    python scripts/evaluate.py --config configs/evaluate.py my_models.py:network --data=DIR --plan
#    python scripts/evaluate.py --config configs/evaluate.py my_models.py:network --data=DIR
#    python scripts/report.py runs/evaluate
#
# The first command says what was found in the folder and what can be measured; the last one writes
# a page with the answer on its first screen.
