"""records.jsonl: what is written is read back, newest first wins, damage is told apart."""

import json
import math

import numpy as np
import pytest

import advspur
from advspur._checks import InputError
from advspur.intervals import Estimate, ratio, wilson
from advspur.records import COMPLETE, append_records, read_records, record


def sample(metric="accuracy", value=0.5, **fields):
    estimate = Estimate(value, 0.25, 0.75, 40)
    made = record(metric, estimate, options={"epsilon": 0.5, "p": 2.0}, seconds=1.23456)
    return made._replace(model="resnet18_l2_eps3", benchmark="shapes", **fields)


def test_a_record_carries_the_estimate_and_the_version():
    made = sample()
    assert (made.value, made.low, made.high, made.num_examples) == (0.5, 0.25, 0.75, 40)
    assert made.seconds == 1.235
    assert made.advspur == advspur.__version__


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "records.jsonl"
    written = [sample(), sample("gap", train_p="inf", train_epsilon=8 / 255, seed=3)]
    append_records(path, written[:1])
    append_records(path, written[1:])
    assert read_records(path) == written
    assert len(path.read_text().splitlines()) == 2
    names = set(json.loads(path.read_text().splitlines()[0]))
    assert names == {
        "model", "arch", "train_p", "train_epsilon", "benchmark", "metric", "value", "low",
        "high", "num_examples", "options", "seed", "seconds", "advspur",
    }  # fmt: skip


def test_nan_survives(tmp_path):
    path = tmp_path / "records.jsonl"
    append_records(path, [record("gap", Estimate(math.nan, math.nan, math.nan, 0), options={})])
    (read,) = read_records(path)
    assert math.isnan(read.value) and read.num_examples == 0


def test_no_file_holds_no_records(tmp_path):
    assert read_records(tmp_path / "records.jsonl") == []


def test_a_later_record_of_the_same_number_supersedes(tmp_path):
    path = tmp_path / "records.jsonl"
    append_records(path, [sample(value=0.1), sample("gap", value=0.2)])
    append_records(path, [sample(value=0.3, seconds=9.0, seed=7)])
    assert sorted((r.metric, r.value) for r in read_records(path)) == [
        ("accuracy", 0.3),
        ("gap", 0.2),
    ]


@pytest.mark.parametrize(
    "change", ({"model": "b"}, {"benchmark": "b"}, {"metric": "b"}, {"options": {"p": 2.0}})
)
def test_records_of_other_numbers_stay_apart(tmp_path, change):
    path = tmp_path / "records.jsonl"
    append_records(path, [sample(), sample()._replace(**change)])
    assert len(read_records(path)) == 2


def test_the_order_of_options_does_not_matter():
    reordered = sample()._replace(options={"p": 2.0, "epsilon": 0.5})
    assert reordered.identity == sample().identity


def test_a_half_written_last_line_is_passed_over_and_written_past(tmp_path):
    path = tmp_path / "records.jsonl"
    append_records(path, [sample(), sample("gap")])
    path.write_text(path.read_text()[:-30])
    assert [r.metric for r in read_records(path)] == ["accuracy"]
    append_records(path, [sample("later")])
    assert [r.metric for r in read_records(path)] == ["accuracy", "later"]


@pytest.mark.parametrize("line", ('{"metric": "a", "colour": 3}', "17", '{"metric": "a"}'))
def test_lines_that_are_no_records_are_an_error_with_their_number(tmp_path, line):
    path = tmp_path / "records.jsonl"
    append_records(path, [sample()])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"records\.jsonl line 2 is no record"):
        read_records(path)


def test_an_end_mark_supersedes_all_measured_before_its_numbers(tmp_path):
    path = tmp_path / "records.jsonl"
    end = Estimate(1, 1, 1, 1)

    def measure(**options):
        about = {"benchmark": "b", "model": "m"}
        number = record("pgd_accuracy", Estimate(0.5, 0.4, 0.6, 9), options=options)
        mark = record(COMPLETE, end, options=options)
        append_records(path, [number._replace(**about), mark._replace(**about)])

    measure(epsilon=0.1)
    measure(epsilon=0.2)
    assert [r.options for r in read_records(path)] == [{"epsilon": 0.2}] * 2


@pytest.mark.parametrize(("shares", "sizes"), [((0.3, 0.7), (400, 900)), ((0.05, 0.5), (300, 80))])
def test_the_interval_of_a_ratio_covers_it(shares, sizes):
    """95% of the draws, give or take: Wilson's intervals, too, are of discrete numbers."""
    draws, rng = 4000, np.random.default_rng(0)
    (a, b), (n, m) = shares, sizes
    tables = [[wilson(k, size) for k in range(size + 1)] for size in sizes]
    found = [
        ratio(tables[0][x], tables[1][y])
        for x, y in zip(rng.binomial(n, a, draws), rng.binomial(m, b, draws), strict=True)
    ]
    covered = np.mean([e.low <= a / b <= e.high for e in found])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / draws)
    assert {e.num_examples for e in found} == {min(sizes)}


def test_ends_of_a_ratio():
    """By hand: (0.5, 0.4 to 0.6) over (0.8, 0.7 to 0.9) joins lengths sqrt(0.1^2 + (r 0.1)^2)."""
    found = ratio(Estimate(0.5, 0.4, 0.6, 9), Estimate(0.8, 0.7, 0.9, 7))
    assert found.value == pytest.approx(0.625, abs=1e-12) and found.num_examples == 7
    for end, sign in ((found.low, 1), (found.high, -1)):
        gap = 0.5 - end * 0.8  # the end is the ratio r at which this is as long as its interval
        assert gap == pytest.approx(sign * 0.1 * math.hypot(1, end), abs=1e-12)
    certain = ratio(Estimate(0.5, 0.5, 0.5, 9), Estimate(0.8, 0.8, 0.8, 9))
    assert certain[:3] == pytest.approx(3 * [0.625], abs=1e-12)
    assert ratio(Estimate(0.0, 0.0, 0.1, 9), Estimate(0.8, 0.7, 0.9, 9))[:2] == (0, 0)
    for a, b in ((0.5, 0.0), (0.5, math.nan), (math.nan, 0.5)):
        assert math.isnan(ratio(Estimate(a, a, a, 9), Estimate(b, b, b, 9)).value)
