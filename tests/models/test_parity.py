"""Converted networks against torch: golden activations of seeded weights (golden/make_golden.py).

python tests/models/test_parity.py prints the parity report of docs/results.md.
"""

from pathlib import Path

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
    classifier, golden = (
        convert_torch_checkpoint(path, **IMAGENET),
        dict(np.load(GOLDEN / f"{arch}.npz")),
    )
    x = jnp.asarray(images())

    @jax.jit
    def forward(x):
        scaled = normalize(x, classifier.forward.mean, classifier.forward.std)
        network, variables = classifier.forward.network, classifier.params
        (logits, features), state = network.apply(variables, scaled, mutable=["intermediates"])
        chosen = jax.nn.log_softmax(logits)[jnp.arange(2), jnp.array(LABELS)]
        return -chosen.sum(), (logits, features, state["intermediates"])

    (_, (logits, features, seen)), gradient = jax.value_and_grad(forward, has_aux=True)(x)
    seen = {name: value[0] for name, value in seen.items()} | {"gradient": gradient}
    report = {}
    for name in golden:
        if f"{name}_scale" in golden:
            flat = np.ravel(seen.pop(name))
            difference = np.abs(flat[positions(flat.size)] - golden[name]).max()
            report[name] = difference / golden[f"{name}_scale"]
    assert not seen, f"not compared: {sorted(seen)}"
    for name, value in (("features", features), ("logits", logits)):
        report[name] = np.abs(value - golden[name]).max() / np.ptp(golden[name])
    return report, logits, golden["logits"]


@pytest.mark.parametrize("arch", ("resnet18", "resnet50"))
def test_every_block_is_that_of_torch(arch, tmp_path):
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
