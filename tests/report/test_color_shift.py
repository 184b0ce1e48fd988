"""Figure 9 of made-up models: gaps and verdicts by hand, a page, and what is missing left out."""

import json
import math
from itertools import product

import matplotlib.pyplot as plt
import pytest

from advspur.intervals import difference, ratio, wilson
from advspur.records import append_records, record
from advspur.report import write_report
from advspur.report.color_shift import (
    CONTROL,
    TEST,
    Arm,
    arms_of,
    color_shift_figures,
    color_shift_findings,
    gaps_of,
)
from advspur.report.suite import STANDARD, suite_of

RHOS, EPSILONS, N = (1.0, 4.0, 19.0), (0.0, 0.1, 0.2), 4000
STANDARD_L2 = Arm("resnet18", STANDARD, 0.0, 2.0)


def records(accuracy, *, seeds=(0, 1), train=(2.0, 0.0), rhos=RHOS):
    """Records of standard models: accuracy(rho, epsilon of an l2 attack, split, seed)."""
    found = []
    for rho, seed, split, epsilon in product(rhos, seeds, (TEST, CONTROL), EPSILONS):
        value = wilson(round(N * accuracy(rho, epsilon, split, seed)), N)
        options = {"rho": rho, "shift": 16 / 255, "part": split}
        options |= {"p": 2.0, "epsilon": epsilon, "num_steps": 20}
        about = {"benchmark": "cifar_color_shift", "arch": "resnet18", "seed": seed}
        about |= {"train_p": train[0], "train_epsilon": train[1]}
        made = record("pgd_accuracy", value, options=options)
        found.append(made._replace(model=f"m_{train}_{rho:g}_{seed}", **about))
    return found


def as_in_the_paper(rho, epsilon, split, seed):
    gain = 0.02 * RHOS.index(rho) * (1 + 15 * epsilon)
    return 0.7 - 2 * epsilon + (gain if split == TEST else -gain) + 0.001 * seed


def test_gaps_are_of_the_largest_ratio_to_the_smallest():
    suite = suite_of(records(as_in_the_paper))
    assert [m.rho for m in suite.models] == [1, 4, 19, 1, 4, 19]  # by seed, then by ratio
    assert list(arms_of(suite)) == [STANDARD_L2]
    curves = arms_of(suite)[STANDARD_L2][TEST]
    assert list(curves) == list(RHOS) and list(curves[4.0]) == list(EPSILONS)
    assert {s: e.value for s, e in curves[4.0][0.1].items()} == pytest.approx({0: 0.55, 1: 0.551})
    gaps = gaps_of(curves)
    assert {e: gap.value for e, (gap, _) in gaps.items()} == pytest.approx(
        {0.0: 0.04, 0.1: 0.1, 0.2: 0.16}
    )
    assert gaps[0.2][1] == pytest.approx([0.16, 0.16])
    # The intervals are over images: those of one model, since seeds share their images.
    of_one = difference(wilson(round(N * 0.46), N), wilson(round(N * 0.3), N))
    assert gaps[0.2][0].low == pytest.approx(of_one.low, abs=1e-3)


def test_the_papers_sentences_hold_of_models_like_its_own():
    verdicts = {t.statement: t for t in color_shift_findings(suite_of(records(as_in_the_paper)))}
    assert len(verdicts) == 4 and {t.verdict for t in verdicts.values()} <= {"holds"}
    (growth,) = (t for s, t in verdicts.items() if "larger under attack" in s)
    clean = difference(wilson(round(N * 0.74), N), wilson(round(N * 0.7), N))
    largest = difference(wilson(round(N * 0.46), N), wilson(round(N * 0.3), N))
    times = ratio(largest, clean)
    assert "Clean gap 4.0 points" in growth.detail and "at ε = 0.2" in growth.detail
    assert f"{times.value:.2f} [" in growth.detail and times.value == pytest.approx(4.0, rel=1e-6)


def test_the_opposite_fails_and_no_difference_is_open():
    upside_down = records(lambda r, e, s, seed: 1 - as_in_the_paper(r, e, s, seed))
    found = color_shift_findings(suite_of(upside_down))
    assert {t.verdict for t in found} == {"fails"}
    flat = color_shift_findings(suite_of(records(lambda r, e, s, seed: 0.7 - 2 * e)))
    assert {t.verdict for t in flat} == {"open"}
    assert any("their ratio has no interval" in t.detail for t in flat)


def test_a_page_shows_both_arms_and_says_the_note(tmp_path):
    both = records(as_in_the_paper) + records(as_in_the_paper, train=(2.0, 0.5))
    append_records(tmp_path / "records.jsonl", both)
    environment = dict.fromkeys(("command", "date", "advspur", "git_commit", "jax", "python"), "x")
    environment |= {"cpus": 2, "devices": ["cpu"]}
    config = {"dataset": "cifar10", "color_shift": {"shift": 16 / 255}, "arch": "resnet18"}
    config |= {"stem": "cifar", "num_steps": 0, "num_epochs": 150.0, "batch_size": 128}
    config |= {"attack": {"num_steps": 7}, "note": "JPEG < 95 & more."}
    text = json.dumps({"config": config, "environment": environment})
    (tmp_path / "config.json").write_text(text)
    page = write_report(tmp_path).read_text()
    for words in (
        '<meta name="note" content="JPEG &lt; 95 &amp; more.">',  # scripts/reproduce.py asks for it
        "Figure 9: colour shift",
        "Colour shift, adversarial training",
        "Shift 16/255 of one channel: an ℓ∞ attack of that budget can undo it, an ℓ2 attack of 2.0",
        "Seeds: 2; n: 4,000 images. JPEG &lt; 95 &amp; more.",
        "red or green shift of\n16/255",
        "150.0 epochs",
        "standard, ρ = 19",
        "ℓ2, ε = 0.5, ρ = 4",
    ):
        assert words in page, words
    assert page.count("<img") == 2
    assert {p.stem for p in (tmp_path / "figures").glob("*.png")} == {
        "figure9_color_shift",
        "color_shift_adversarial",
    }


def test_other_suites_have_no_figure_9(synthetic):
    suite = suite_of(synthetic())
    assert list(color_shift_figures(suite)) == [] and color_shift_findings(suite) == []


def test_of_one_ratio_and_one_seed_there_is_a_figure():
    alone = suite_of(records(as_in_the_paper, seeds=(0,), rhos=(4.0,)))
    assert [title for _, title, *_ in color_shift_figures(alone)] == ["Figure 9: colour shift"]
    assert color_shift_findings(alone) == []  # nothing to compare
    plt.close("all")


def test_what_is_missing_is_left_out_and_infinity_is_a_ratio():
    """NaN, a seed of one ratio, and records that know nothing of the ratio."""
    made = records(as_in_the_paper)
    broken = [r._replace(value=math.nan) if r.options["rho"] == 19 else r for r in made]
    curves = arms_of(suite_of(broken))[STANDARD_L2][TEST]
    assert list(curves) == [1.0, 4.0] and len(color_shift_findings(suite_of(broken))) == 4
    fewer = [r for r in made if (r.options["rho"], r.seed) != (19.0, 0)]
    gaps = gaps_of(arms_of(suite_of(fewer))[STANDARD_L2][TEST])
    assert gaps[0.2][1] == pytest.approx([0.16])  # of seed 1 alone
    other = made[-1]._replace(benchmark="autoattack_cifar10", metric="accuracy", options={})
    assert list(arms_of(suite_of([*made, other]))) == [STANDARD_L2]
    alone = [r._replace(options=r.options | {"rho": "inf"}) for r in made if r.options["rho"] == 19]
    assert list(arms_of(suite_of(alone))[STANDARD_L2][TEST]) == [math.inf]
