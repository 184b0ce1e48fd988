"""records.jsonl: what is written is read back, the newest wins, damage is recognised."""

import json
import math

import pytest

import advspur
from advspur._checks import InputError
from advspur.intervals import Estimate
from advspur.records import COMPLETE, append_records, read_records, record

FIELDS = (
    "model arch train_p train_epsilon benchmark metric value low high num_examples options seed "
    "seconds advspur measure recipe"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.jsonl"


def sample(metric="accuracy", value=0.5, **fields):
    estimate = Estimate(value, 0.25, 0.75, 40)
    made = record(metric, estimate, options={"epsilon": 0.5, "p": 2.0}, seconds=1.23456)
    return made._replace(**{"model": "resnet18_l2_eps3", "benchmark": "shapes"} | fields)


def end_mark(count, **options):
    made = record(COMPLETE, Estimate(count, count, count, count), options=options)
    return made._replace(model="resnet18_l2_eps3", benchmark="shapes")


def test_a_record_carries_the_estimate_and_the_version():
    made = sample()
    assert (made.value, made.low, made.high, made.num_examples) == (0.5, 0.25, 0.75, 40)
    assert made.seconds == 1.235
    assert made.advspur == advspur.__version__


def test_what_is_written_is_read_back(path):
    assert read_records(path) == []
    written = [sample(), sample("gap", train_p="inf", train_epsilon=8 / 255, seed=3)]
    append_records(path, written[:1])
    append_records(path, written[1:])
    assert read_records(path) == written
    assert len(path.read_text().splitlines()) == 2
    assert set(json.loads(path.read_text().splitlines()[0])) == set(FIELDS.split())
    append_records(path, [record("nan", Estimate(math.nan, math.nan, math.nan, 0), options={})])
    read = read_records(path)[-1]
    assert math.isnan(read.value) and read.num_examples == 0


def test_a_later_record_of_the_same_number_supersedes(path):
    append_records(path, [sample(value=0.1), sample("gap", value=0.2)])
    reordered = {"p": 2.0, "epsilon": 0.5}
    append_records(path, [sample(value=0.3, seconds=9.0, seed=7, options=reordered)])
    found = sorted((r.metric, r.value) for r in read_records(path))
    assert found == [("accuracy", 0.3), ("gap", 0.2)]


@pytest.mark.parametrize(
    "change", ({"model": "b"}, {"benchmark": "b"}, {"metric": "b"}, {"options": {"p": 2.0}})
)
def test_records_of_other_numbers_stay_apart(path, change):
    append_records(path, [sample(), sample()._replace(**change)])
    assert len(read_records(path)) == 2


def test_a_half_written_last_line_is_skipped_and_written_past(path):
    append_records(path, [sample(), sample("gap")])
    path.write_text(path.read_text()[:-30])
    assert [r.metric for r in read_records(path)] == ["accuracy"]
    append_records(path, [sample("later")])
    assert [r.metric for r in read_records(path)] == ["accuracy", "later"]


@pytest.mark.parametrize("line", ('{"metric": "a", "colour": 3}', "17", '{"metric": "a"}'))
def test_lines_that_are_not_records_are_an_error_with_their_number(path, line):
    append_records(path, [sample()])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=r"records\.jsonl line 2 is not a record"):
        read_records(path)


def test_an_end_mark_supersedes_all_measured_before_its_numbers_and_nothing_else(path):
    others = [sample(model="b"), sample(benchmark="c")]
    append_records(path, others)
    for epsilon in (0.1, 0.2):
        number = sample("pgd_accuracy", options={"epsilon": epsilon})
        append_records(path, [number, end_mark(1, epsilon=epsilon)])
    assert read_records(path) == [*others, number, end_mark(1, epsilon=0.2)]


def test_numbers_cut_before_their_end_mark_are_not_kept_beside_the_next(path):
    """A kill leaves two of three numbers; measured again, each is there once."""
    append_records(path, [sample("a", value=0.1), sample("b", value=0.1)])
    path.write_text(path.read_text() + '{"metric": "c", "val')
    three = [sample(metric, value=0.9) for metric in "abc"]
    append_records(path, [*three, end_mark(3)])
    assert read_records(path) == [*three, end_mark(3)]
