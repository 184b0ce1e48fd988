"""Converted networks against torch: golden activations of seeded weights (golden/make_golden.py).

python tests/models/test_parity.py prints the parity report of docs/measurements.md.
"""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeded import images, positions, state_dict

from advspur.models import convert_torch_checkpoint
from advspur.models.classifier import normalize

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
GOLDEN = Path(__file__).parent / "golden"
LABELS = (3, 7)


def parity(arch, path):
    """{what: largest difference from torch, as a share of its largest magnitude} and logits."""
    np.savez(path, **state_dict(arch))
    golden = dict(np.load(GOLDEN / f"{arch}.npz"))
    classifier = convert_torch_checkpoint(path, **IMAGENET)

    @jax.jit
    def forward(x):
        x = normalize(x, classifier.forward.mean, classifier.forward.std)
        options = {"capture_intermediates": True, "mutable": ["intermediates"]}
        outputs, state = classifier.forward.network.apply(classifier.params, x, **options)
        chosen = jax.nn.log_softmax(outputs[0])[jnp.arange(2), jnp.array(LABELS)]
        return -chosen.sum(), (outputs, state["intermediates"])

    pixels = jnp.asarray(images())
    (_, (outputs, modules)), gradient = jax.value_and_grad(forward, has_aux=True)(pixels)
    layers = {k: v["__call__"][0] for k, v in modules.items() if k != "__call__"}
    x = nn.max_pool(nn.relu(layers["bn1"]), (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    seen = {"stem": x, "gradient": gradient}
    for name in (name.removesuffix("_conv1") for name in layers if name.endswith("_conv1")):
        last = layers.get(f"{name}_bn3", layers[f"{name}_bn2"])
        seen[name] = x = nn.relu(last + layers.get(f"{name}_downsample_bn", x))
    assert {f"{name}_scale" for name in seen} == {name for name in golden if "_scale" in name}
    report = {}
    for name, value in seen.items():
        difference = np.ravel(value)[positions(value.size)] - golden[name]
        report[name] = np.abs(difference).max() / golden[f"{name}_scale"]
    for name, value in zip(("logits", "features"), outputs, strict=True):
        report[name] = np.abs(value - golden[name]).max() / np.ptp(golden[name])
    return report, outputs[0], golden["logits"]


@pytest.mark.parametrize("arch", ("resnet18", "resnet50"))
def test_every_block_agrees_with_torch(arch, tmp_path):
    report, logits, expected = parity(arch, tmp_path / "weights.npz")
    assert len(report) == {"resnet18": 8, "resnet50": 16}[arch] + 4
    assert report.pop("gradient") < 1e-3
    assert max(report.values()) < 1e-4, report
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))


def main():
    import tempfile

    for arch in ("resnet18", "resnet50"):
        with tempfile.TemporaryDirectory() as folder:
            report, _, _ = parity(arch, Path(folder) / "weights.npz")
        print(f"\n{arch}: largest difference from torch, relative to the largest magnitude")
        for name, value in report.items():
            print(f"  {name:12} {value:.1e}")


if __name__ == "__main__":
    main()
