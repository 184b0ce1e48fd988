"""
Train a robust model and look inside
====================================

Two small networks, one trained as usual and one adversarially, on images whose background agrees
with the class most of the time. Which of them looks at the background? (The configs are those of a
checkout of the repository.)
"""

# %%
# 1. Training
# -----------
#
# A run is one config and one folder. The config is ``configs/quickstart.py``, a small ResNet
# on embedded data, with fewer steps on smaller images. Every key can be a flag as well, as in
# ``python scripts/train.py --config configs/quickstart.py --config.num_steps=200 --workdir=RUN``.

import sys
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import advspur
from advspur import attacks, data, models
from advspur.benchmarks import BENCHMARKS
from advspur.measures.regions import margin_gradient
from advspur.training import train

sys.path += [str(Path.cwd()), str(Path(advspur.__file__).parents[1])]  # a checkout has configs/
from configs import quickstart

folder, networks = Path(tempfile.mkdtemp()), {}
jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))  # both runs share it
for name, epsilon in (("standard", 0.0), ("robust", 0.25)):
    config = quickstart.get_config()
    config.num_steps = config.validation.every_steps = 200
    config.shapes.image_size = 16
    config.attack.epsilon = epsilon  # in l2, for images in [0, 1]
    train(config, folder / name)
    networks[name] = models.load(folder / name)

# %%
# The folder holds checkpoints, the config and a line for each logged step; the same call resumes an
# interrupted run.

print(*sorted(path.name for path in (folder / "robust").iterdir()))
print((folder / "robust" / "metrics.jsonl").read_text().splitlines()[-1])

# %%
# 2. Is it robust?
# ----------------
#
# Attacks are functions of arrays: logits, images in [0, 1], labels. A model is a pytree, so one
# compilation of a function of it serves both networks and all budgets.


@jax.jit
def accuracy(network, images, labels, epsilon):
    moved = attacks.pgd(network.logits, images, labels, p=2, epsilon=epsilon, num_steps=10)
    return (network.logits(moved).argmax(-1) == labels).mean()


test = data.spurious_shapes("test", num_examples=400, image_size=16).columns
images, labels = test["image"] / np.float32(255), test["label"]
for name, network in networks.items():
    found = [accuracy(network, images, labels, epsilon) for epsilon in (0.0, 0.125, 0.25)]
    print(f"{name:9} accuracy under PGD, ε = 0, 0.125, 0.25:", *(f"{x:.2f}" for x in found))

# %%
# 3. What does it rely on?
# ------------------------
#
# The background gap is the accuracy on objects with the background of another image of their
# class, minus that with the background of a random class. Two hundred steps are few, and the
# intervals are those over images: ``configs/quickstart.py`` trains seven networks for longer.

shapes = BENCHMARKS["spurious_shapes"]
options = {"data": {"shapes": {"image_size": 16}}, "measures": ("background_gaps",)}
for name, network in networks.items():
    gap, _ = shapes.evaluate(network, batch_size=400, key=jax.random.key(0), **options)
    low, value, high = (100 * x for x in (gap.low, gap.value, gap.high))
    print(f"{name:9} background gap {value:.1f} points [{low:.1f}, {high:.1f}]")

# %%
# 4. Where does it look?
# ----------------------
#
# The gradient of the margin, the largest other logit less that of the label, shows which pixels
# would change the decision. Deep NFS, the share of its square that is off the object, is its
# summary.

figure, axes = plt.subplots(2, 6, figsize=(9, 3.2), layout="constrained")
for row, (name, network) in zip(axes, networks.items(), strict=True):
    gradients = margin_gradient(network, test["image"], test["label"])
    energy = np.square(gradients).sum(-1, keepdims=True)
    share = (energy * ~test["mask"]).sum((1, 2, 3)) / energy.sum((1, 2, 3))
    row[0].set_ylabel(f"{name}\ndeep NFS {share.mean():.2f}")
    for i in range(3):
        row[2 * i].imshow(test["image"][i])
        row[2 * i + 1].imshow(np.sqrt(energy[i, ..., 0]), cmap="magma")
        row[2 * i + 1].contour(test["mask"][i, ..., 0], [0.5], colors="white", linewidths=1)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
plt.show()

# %%
# ``python scripts/evaluate.py --config configs/evaluate.py RUN`` measures all of this on a run, and
# ``python scripts/report.py runs/evaluate`` draws it. The guide :doc:`/training` has every key.
