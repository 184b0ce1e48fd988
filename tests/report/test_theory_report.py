"""Verdicts on made-up arrays with answers made by hand, and the page of a theory directory."""

import math

import numpy as np
import pytest

from advspur._checks import InputError
from advspur.report import write_report
from advspur.report.theory_claims import read_theory, theory_findings

NAN = math.nan
SPURIOUS = np.array([False, True])


def theta_of(nfs):
    """[..., 2] of length 1 (0 where NFS is NaN): one core and one spurious feature."""
    nfs = np.asarray(nfs, float)
    return np.nan_to_num(np.stack([np.sqrt(1 - nfs), np.sqrt(nfs)], axis=-1))


def write_nfs(directory, l1, l2=(0.1, 0.2, 0.3), linf=(0.0, 0.0, 0.0)):
    """One eta besides eta = 0, three budgets."""
    nfs = np.array([[[0.0, 0.0, NAN], curve] for curve in (l1, l2, linf)])
    axes = {"norms": [1, 2, math.inf], "etas": [0.0, 0.5], "is_spurious": SPURIOUS}
    axes |= {"epsilons": np.tile([0.1, 0.2, 0.3], (3, 1)), "plateau_onset": [NAN, 0.2]}
    ends = {"collapse_radius": np.full((3, 2), 0.4), "limit_nfs": np.full((3, 2), 0.5)}
    np.savez(directory / "theory_nfs.npz", nfs=nfs, theta=theta_of(nfs), **axes, **ends)


def write_scale(directory, of_scales, used_from=((NAN, 0.0),), critical=1.5):
    """[scales 1 and 2, budgets 0.1 and 0.2] at eta = 0.5."""
    nfs, axes = np.array([of_scales]), {"etas": [0.5], "scales": [1.0, 2.0]}
    phase = axes | {"used_from": used_from, "one_from": used_from, "critical_scale": [critical]}
    phase = {f"phase_{name}": x for name, x in phase.items()}
    axes |= {"epsilons": [0.1, 0.2], "is_spurious": SPURIOUS, "critical_scale": [critical]}
    arrays = axes | phase | {"phase_collapse_radius": np.ones((1, 2))}
    np.savez(directory / "theory_scale.npz", nfs=nfs, theta=theta_of(nfs), **arrays)


def write_shift(directory, total, improved=0.4, core=(0.5, 0.5)):
    """l2 models at one reading and shifts 0 and 1; `total`, `core`: [budget, shift] of the loss."""
    loss = np.stack(np.broadcast_arrays(core, total), axis=-1)[None, None]
    budgets = loss.shape[2]
    facts = {"norms": [2.0], "scales": [1.0], "eta": 0.25, "readings": ["R1"], "num_draws": 100}
    facts |= {"epsilons": [np.arange(1.0, budgets + 1)], "shift_stds": [0.0, 1.0]}
    facts |= {"theta": np.tile([[1.0, 0.0], [0.8, 0.6]], (1, budgets, 1, 1))}
    facts |= {"improved": np.full(loss.shape[:-1], improved)}
    losses = dict.fromkeys(("loss", "mc_mean", "mc_error", "mc_low", "mc_high"), loss)
    np.savez(directory / "theory_shift.npz", **facts, **losses)


def write_weights(directory, l2, linf, clean=((2.0, 2.0), (1.2, 2.0), (1.0, 3.0), (1.5, 4.0))):
    """Weights 0.5, 1, 2 and inf, two budgets; w* of linf is 1.5."""
    nfs, weights = np.array([l2, linf]), [0.5, 1.0, 2.0, math.inf]
    facts = {"norms": [2, math.inf], "scales": [1.0, 3.0], "eta": 0.5, "weights": weights}
    facts |= {"epsilons": [[0.1, 0.2]] * 2, "protective_weight": [[math.inf] * 2, [1.5] * 2]}
    losses = dict.fromkeys(("clean_loss", "core_loss"), np.array([clean] * 2))
    arrays = facts | losses | {"nfs": nfs, "theta": theta_of(nfs), "is_spurious": SPURIOUS}
    np.savez(directory / "theory_weights.npz", **arrays)


L2_WEIGHTS = ((0.6, 0.7), (0.4, 0.5), (0.2, 0.3), (0.0, NAN))
LINF_WEIGHTS = ((0.6, 0.7), (0.4, 0.5), (0.0, 0.0), (0.0, NAN))


def test_weights_that_do_as_the_theory_says(tmp_path):
    write_weights(tmp_path, L2_WEIGHTS, LINF_WEIGHTS)
    assert verdict(tmp_path, "ℓ2: spurious features are used at every finite") == (
        "holds",
        "True in 6 of 6 cells.",
    )
    said = verdict(tmp_path, "ℓ∞: spurious features are used at weights below w*")
    assert said == ("holds", "True in 7 of 7 cells. w* is 1.5 to 1.5.")
    for norm in ("ℓ2", "ℓ∞"):
        assert verdict(tmp_path, f"{norm}: more weight never")[0] == "holds"
        found, detail = verdict(tmp_path, f"{norm}: some weight above 1")
        assert found == "holds in part" and detail.startswith("At 1 of 2 budgets, ε 0.1 to 0.1;")
        assert detail.endswith("w = ∞ has the lower clean loss at ε nowhere.")
    write_report(tmp_path)
    assert {p.stem for p in tmp_path.glob("figures/*.png")} == {"theory_weights", "theory_price"}


def test_weights_that_do_not(tmp_path):
    l2 = ((0.6, 0.7), (0.4, 0.5), (0.45, 0.0), (0.0, NAN))
    linf = ((0.6, 0.7), (0.0, 0.5), (0.1, 0.0), (0.0, NAN))
    write_weights(tmp_path, l2, linf)
    found, detail = verdict(tmp_path, "ℓ2: spurious features are used at every finite")
    assert found == "fails" and "True in 5 of 6 cells, not at w 2, ε 0.2" in detail
    found, detail = verdict(tmp_path, "ℓ∞: spurious features are used at weights below")
    assert found == "fails" and "not at w 1, ε 0.1" in detail
    assert "not at w 2, ε 0.1" in verdict(tmp_path, "ℓ2: more weight never")[1]


def verdict(directory, part):
    (found,) = [c for c in theory_findings(read_theory(directory)) if part in c.statement]
    return found.verdict, found.detail


@pytest.mark.parametrize(
    ("l1", "expected"),
    [((0.1, 0.2, 0.3), "holds"), ((0.1, 0.6, 0.6), "holds in part"), ((0.1, 0.3, NAN), "holds"),
     ((0.1, 0.3, 0.2), "fails"), ((0.2, 0.2, 0.2), "fails")],
)  # fmt: skip
def test_growth_with_the_budget(tmp_path, l1, expected):
    write_nfs(tmp_path, l1)
    assert verdict(tmp_path, "ℓ1: increasing")[0] == expected
    assert verdict(tmp_path, "ℓ2: increasing")[0] == "holds"


def test_detail_names_the_worst_step_and_the_plateau(tmp_path):
    write_nfs(tmp_path, (0.5, 0.1, 0.2), l2=(0.1, 0.2, 0.2))
    detail = verdict(tmp_path, "ℓ1: increasing")[1]
    assert "most at η 0.5, ε 0.1, where NFS falls from 0.5 to 0.1 at ε 0.2" in detail
    assert "equal: from ε 0.2 (η 0.5). Left out: η = 0, NFS 0." in detail


@pytest.mark.parametrize(("linf", "expected"), [(0.0, "holds"), (1e-12, "fails")])
def test_use_of_any_spurious_feature_under_linf(tmp_path, linf, expected):
    write_nfs(tmp_path, (0.1, 0.2, 0.0), linf=(0.0, linf, NAN))
    assert verdict(tmp_path, "does not rely")[0] == expected
    assert verdict(tmp_path, "ℓ2: “the model would use both")[0] == "holds"
    assert "not at η 0.5, ε 0.3" in verdict(tmp_path, "ℓ1: “the model would use both")[1]


def test_scale_claims(tmp_path):
    write_scale(tmp_path, [[0.0, 0.0], [0.1, 0.2]])
    parts = ("scaling up", "only occurs", "budget ε")
    assert [verdict(tmp_path, p)[0] for p in parts] == ["holds", "holds", "holds in part"]
    write_scale(tmp_path, [[0.0, 0.1], [0.1, 0.05]], critical=0.9)
    assert [verdict(tmp_path, p)[0] for p in parts] == ["holds", "fails", "fails"]
    write_scale(tmp_path, np.zeros((2, 2)), used_from=((NAN, NAN),))
    assert verdict(tmp_path, "scaling up")[0] == "fails"


def test_taking_the_scaling_out_of_theta_can_turn_a_fall_into_growth(tmp_path):
    write_scale(tmp_path, [[0.10, 0.10], [0.08, 0.08]])  # |θ_S| falls by less than the scale grows
    found = theory_findings(read_theory(tmp_path))
    growth = [c.verdict for c in found if "scaling parameter" in c.statement]
    assert growth == ["fails", "holds"]


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        ([[0.6, 0.9], [0.4, 0.5]], ("holds", "holds", "fails")),
        ([[0.6, 0.9], [0.7, 0.6]], ("fails", "fails", "fails")),
    ],
)
def test_shift_claims(tmp_path, total, expected):
    write_shift(tmp_path, total)
    parts = ("higher or lower", "in expectation", "in every draw")
    assert tuple(verdict(tmp_path, p)[0] for p in parts) == expected
    assert "40.0% to 40.0% of draws" in verdict(tmp_path, "in every draw")[1]
    write_shift(tmp_path, total, improved=0.0, core=(0.5, 0.9))
    assert verdict(tmp_path, "in every draw")[0] == "holds"
    assert verdict(tmp_path, "in expectation")[0] == "fails"  # core loses as much


def test_page_of_theory_alone(tmp_path, rendered):
    write_nfs(tmp_path, (0.1, 0.6, 0.6))
    write_scale(tmp_path, [[0.0, 0.0], [0.1, 0.2]])
    write_shift(tmp_path, [[0.6, 0.9], [0.4, 0.5]])
    page = write_report(tmp_path).read_text()
    assert "Linear theory" in page and "Models and what they cost" not in page
    assert page.count("<img") == page.count('src="data:image/png') == 5
    assert page.count('<tr id="theory-') == len(theory_findings(read_theory(tmp_path))) == 13
    assert (tmp_path / "figures" / "theory_phase.pdf").exists()


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "theory_nfs.npz").write_text("no arrays")
    with pytest.raises(InputError, match="theory_nfs.npz is not a readable .npz file"):
        write_report(tmp_path)
