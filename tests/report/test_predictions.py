"""Predictions against measures: correlations are SciPy's, verdicts follow, what lacks is said."""

import hashlib
import json

import numpy as np
import pytest
from scipy import stats

from advspur._checks import InputError
from advspur.records import append_records, record
from advspur.report import predictions, write_report
from advspur.report.predictions import prediction_findings, prediction_table, read_predictions

KINDS = [(2.0, 0.0), (2.0, 0.25), (2.0, 0.5), ("inf", 0.01), ("inf", 0.02)]
METRICS = {
    "gap": "majority_minority_gap",
    "back": "background_gap",
    "nfs": "norm_fraction_spurious",
}
SEEDS = 2


def make(directory, nfs, gap, *, seeds=SEEDS, fixed=()):
    """Files of settings a, b, ...: NFS [s][kind], and gap [s][kind][seed] as every measure."""
    settings = {}
    for i, row in enumerate(nfs):
        name, jitter = "abcdef"[i], float(i not in fixed)
        models = [
            {"p": p, "epsilon": e, "nfs": value, "gradient_share": value}
            for (p, e), value in zip(KINDS, row, strict=True)
        ]
        norms = [{"p": p, "collapse_radius": 2.0, "half_budget": None} for p in (2.0, "inf")]
        dials = {name: jitter for name in predictions.JITTERS}
        settings[name] = {"dials": dials, "norms": norms, "models": models}
        (directory / name).mkdir()
        for k, (p, epsilon) in enumerate(KINDS):
            for seed in range(seeds):
                about = {"model": f"{p}_{epsilon}_{seed}", "arch": "resnet_small", "seed": seed}
                about |= {"train_p": p, "train_epsilon": epsilon, "benchmark": "spurious_shapes"}
                value = float(gap[i][k][seed])
                found = (value, value - 0.01, value + 0.01, 100)
                records = [record(m, found, options={})._replace(**about) for m in METRICS.values()]
                append_records(directory / name / "records.jsonl", records)
    path = directory / "predictions.json"
    path.write_text(json.dumps({"settings": settings}))
    return path


def noisy(seed=0, settings=3):
    rng = np.random.default_rng(seed)
    nfs = np.sort(rng.uniform(size=(settings, len(KINDS))), axis=1)
    return nfs.tolist(), nfs[..., None] + rng.normal(scale=0.3, size=(settings, len(KINDS), SEEDS))


def test_correlations_are_scipys(tmp_path):
    nfs, gap = noisy()
    path = make(tmp_path, nfs, gap, fixed=(2,))
    found = read_predictions(tmp_path)
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.models[0][0] == 0 and list(found.settings) == ["a", "b", "c"]
    np.testing.assert_array_equal(found.is_fixed, [False, False, True])
    by_about = {}
    for f in prediction_findings(found):
        by_about.setdefault(f.about, []).append(f)
    x = np.array(nfs)

    def rho(a, b):
        return stats.spearmanr(a, b).statistic

    whole = rho(np.repeat(x.ravel(), SEEDS), gap.ravel())
    assert f"ρ = {whole:.2f} [" in by_about["order"][0].detail
    assert "3 settings, 5 kinds of training, 2 seeds" in by_about["order"][0].detail
    of_l2 = [0, 1, 2]
    within = [rho(x[i, of_l2], gap[i, of_l2, s]) for i in range(3) for s in range(SEEDS)]
    assert f"Mean ρ = {np.mean(within):.2f} [" in by_about["within settings"][0].detail
    across = [rho(x[:, k], gap[:, k, s]) for k in range(len(KINDS)) for s in range(SEEDS)]
    assert f"Mean ρ = {np.mean(across):.2f} [" in by_about["across settings"][0].detail
    pairs = [
        (gap[i, k, s] - gap[i, j, s]) * (x[i, k] - x[i, j]) > 0
        for i in range(3)
        for k in (1, 2)
        for j in (3, 4)
        for s in range(SEEDS)
    ]
    assert f"True for {np.mean(pairs):.0%} [" in by_about["between norms"][0].detail
    error = f"{np.mean(np.abs(gap - x[..., None])):.2f}"
    assert error in by_about["calibration"][0].detail


@pytest.mark.parametrize("sign, verdict", ((1, "holds"), (-1, "fails")))
def test_what_always_agrees_holds_and_its_opposite_fails(tmp_path, sign, verdict):
    nfs, _ = noisy(settings=4)
    make(tmp_path, nfs, 0.5 + sign * np.array(nfs)[..., None] * [0.3, 0.3])
    for f in prediction_findings(read_predictions(tmp_path)):
        if f.about not in ("half", "calibration"):
            assert f.verdict == verdict, f


def test_an_order_that_is_clear_but_misses_the_aim_holds_in_part(tmp_path):
    nfs, gap = noisy(settings=4)
    make(tmp_path, nfs, gap)
    first = next(prediction_findings(read_predictions(tmp_path)))
    assert first.verdict == "holds in part" and "ρ ≥ 0.9 (our goal)" in first.statement


def test_what_rests_on_two_settings_is_open_and_says_so(tmp_path):
    nfs, _ = noisy(settings=4)
    gap = 0.5 + 0.3 * np.array(nfs)[..., None] * [1, 1]
    gap[:2] = 0
    make(tmp_path, nfs, gap)
    within = [
        f for f in prediction_findings(read_predictions(tmp_path)) if f.about == "within settings"
    ]
    assert {f.verdict for f in within} == {"open"}
    assert all("All networks are equal in 2 of the settings." in f.detail for f in within)


def test_settings_of_other_models_are_refused(tmp_path):
    path = make(tmp_path, *noisy())
    path.write_text(path.read_text().replace('"epsilon": 0.25', '"epsilon": 0.3', 1))
    with pytest.raises(InputError, match="its settings do not have the same models"):
        read_predictions(tmp_path)


def test_a_model_that_is_predicted_to_be_0_is_left_out(tmp_path):
    nfs, gap = noisy()
    nfs[1][4] = None
    make(tmp_path, nfs, gap)
    found = read_predictions(tmp_path)
    x = np.array(nfs, float)
    known = np.isfinite(np.repeat(x.ravel(), SEEDS))
    rho = stats.spearmanr(np.repeat(x.ravel(), SEEDS)[known], gap.ravel()[known]).statistic
    assert f"ρ = {rho:.2f} [" in next(prediction_findings(found)).detail
    assert prediction_table(found)[1][1][4].startswith("θ = 0 → ")


def test_equal_predictions_are_open_and_halves_are_counted(tmp_path):
    gap = np.full((1, len(KINDS), SEEDS), 0.2)
    gap[0, 3:] = 0.7
    make(tmp_path, [[0.6, 0.6, 0.6, 0.6, 0.6]], gap)
    found = list(prediction_findings(read_predictions(tmp_path)))
    assert found[0].verdict == "open"
    assert "All predictions or all networks are equal." in found[0].detail
    half = next(f for f in found if f.about == "half")
    assert half.verdict == "fails"
    assert "predicted for 10 of 10 networks; 4 have a gap of 50 points or more, 4 of" in half.detail


def test_settings_with_networks_that_are_missing_are_left_out_and_named(tmp_path):
    nfs, gap = noisy()
    make(tmp_path, nfs, gap)
    lines = (tmp_path / "b" / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b" / "records.jsonl").write_text("".join(lines[:-3]))
    found = read_predictions(tmp_path)
    assert found.missing == ["b"] and [row[0] for row in prediction_table(found)] == ["a", "c"]
    page = write_report(tmp_path).read_text()
    assert "Left out because networks are missing: b." in page and found.digest in page
    assert page.count("data:image/png;base64,") == 1
    for name in "abc":
        (tmp_path / name / "records.jsonl").unlink()
    assert read_predictions(tmp_path) is None
    with pytest.raises(InputError, match="holds no records"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [("{", "Expecting property name"), ("{}", "KeyError.*settings"),
     ('{"settings": {}}', "it has no settings"),
     ('{"settings": {"a": {"models": 1}}}', "not iterable")],
)  # fmt: skip
def test_damaged_predictions(tmp_path, text, fault):
    (tmp_path / "predictions.json").write_text(text)
    with pytest.raises(InputError, match=f"predictions.json is damaged: .*{fault}") as error:
        read_predictions(tmp_path)
    assert str(error.value).count("is damaged") == 1
