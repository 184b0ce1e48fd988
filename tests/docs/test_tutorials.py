"""The tutorials run (their ResNets with two blocks of three) and show what their text says."""

import re
from pathlib import Path

import pytest

from tests import forked

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
NETWORKS = {"resnet_small": ((1, 1), False, 16, 1)}  # trained without LLVM's optimisation


def numbers(pattern, text):
    return [float(x) for x in re.search(pattern, text, re.M).groups()]


def background(out):
    """The interval of the gap excludes 0: this model looks at the background."""
    _, low, _ = numbers(r"^background_gap +(\S+)  \[(\S+), (\S+)\]", out)
    assert low > 0


def linear_theory(out):
    """The simulation agrees with the exact loss, and reliance grows with the budget."""
    simulated, error, exact = numbers(r"simulated (\S+) ± (\S+), exact (\S+)", out)
    assert abs(simulated - exact) < 4 * error + 1e-4
    nfs = [float(x) for x in re.findall(r"θ = .*NFS = (\S+),", out)]
    assert len(nfs) == 3 and nfs == sorted(nfs) and nfs[0] == 0 < nfs[1]
    before, below, at = (float(x) for x in re.findall(r"w = .*NFS = (\S+)", out))
    assert before > below > at == 0


def robust_training(out):
    """The robust network loses less accuracy to the largest attack, and is the better one there."""
    found = re.findall(r"^(\w+) +accuracy under PGD.*: (\S+) (\S+) (\S+)$", out, re.M)
    accuracy = {name: [float(x) for x in of_name] for name, *of_name in found}
    lost = {name: clean - attacked for name, (clean, _, attacked) in accuracy.items()}
    assert 0 < lost["robust"] < 0.75 * lost["standard"]
    assert accuracy["robust"][2] > accuracy["standard"][2] + 0.05
    assert len(re.findall(r"background gap .* points \[", out)) == 2


def the_paper(out):
    """All models and data sets are listed, with the passes that a model takes."""
    assert len(re.findall(r"^(?:missing|present)  resnet\S+ckpt", out, re.M)) == 22
    assert len(re.findall(r"^(?:missing|present) ", out, re.M)) == 22 + 9
    assert re.search(r"^imagenet_c +3,750,000 passes:", out, re.M)


@pytest.mark.parametrize("check", [background, linear_theory, robust_training, the_paper])
def test_a_tutorial_runs(check, tmp_path):
    script = f"../docs/tutorials/{check.__name__}"
    call = {"devices": 1, "networks": NETWORKS, "environment": {"TMPDIR": str(tmp_path)}}
    code, out, err = forked.run(tmp_path, script, **call)
    assert code == 0, err
    check(out)


def test_every_tutorial_is_tested():
    names = {path.stem for path in TUTORIALS.glob("*.py")}
    assert names == {"background", "linear_theory", "robust_training", "the_paper"}
