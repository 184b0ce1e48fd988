"""records.jsonl: what is written is read back, newest first wins, damage is told apart."""

import json
import math

import pytest

import advspur
from advspur._checks import InputError
from advspur.intervals import Estimate
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
        "measure", "recipe",
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
    with pytest.raises(InputError, match=r"records\.jsonl line 2 is not a record"):
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


def test_an_end_mark_leaves_other_models_and_benchmarks_alone(tmp_path):
    path = tmp_path / "records.jsonl"
    others = [sample()._replace(model="b"), sample()._replace(benchmark="c")]
    end = record(COMPLETE, Estimate(1, 1, 1, 1), options={})
    end = end._replace(model="resnet18_l2_eps3", benchmark="shapes")
    append_records(path, [*others, sample("old"), sample("new"), end])
    found = {(r.model, r.benchmark, r.metric) for r in read_records(path)}
    assert found == {
        ("b", "shapes", "accuracy"),
        ("resnet18_l2_eps3", "c", "accuracy"),
        ("resnet18_l2_eps3", "shapes", "new"),
        ("resnet18_l2_eps3", "shapes", COMPLETE),
    }


def test_numbers_cut_before_their_end_mark_are_not_kept_beside_the_next(tmp_path):
    """A kill leaves two of three numbers; measured again, each is there once."""
    path = tmp_path / "records.jsonl"
    three = [sample("a", value=0.1), sample("b", value=0.1), sample("c", value=0.1)]
    append_records(path, three[:2])
    with path.open("a") as file:
        file.write('{"metric": "c", "val')
    end = record(COMPLETE, Estimate(3, 3, 3, 3), options={})
    end = end._replace(model="resnet18_l2_eps3", benchmark="shapes")
    append_records(path, [*(r._replace(value=0.9) for r in three), end])
    assert [(r.metric, r.value) for r in read_records(path)] == [
        ("a", 0.9), ("b", 0.9), ("c", 0.9), (COMPLETE, 3),
    ]  # fmt: skip
