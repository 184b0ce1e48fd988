"""Verdicts of trends from made-up intervals, and what the page shows of records."""

import re

import pytest

from advspur._checks import InputError
from advspur.records import COMPLETE, append_records
from advspur.report import write_report
from advspur.report.claims import CLAIMS, findings
from advspur.report.headlines import SHAPES_GAPS
from advspur.report.suite import suite_of


@pytest.fixture
def verdicts(model):
    """Function of gaps -> {statement: verdict} for the background gap."""

    def judge(l2, linf=(), base=0.1):
        records = [model(2.0, 0.0, value=base)]
        records += [model(2.0, 0.1 * (i + 1), value=v) for i, v in enumerate(l2)]
        records += [model("inf", 0.01 * (i + 1), value=v) for i, v in enumerate(linf)]
        return {t.statement: t.verdict for t in findings(suite_of(records), CLAIMS)}

    return judge


LARGER = "Every ℓ2 model has a larger background gap than the standard one."
GROWS = "The background gap gets larger with each larger ℓ2 budget."
STRONGER = "Averaged over the budgets, the background gap is larger for ℓ2 than for ℓ∞."


@pytest.mark.parametrize(
    ("gaps", "larger", "grows"),
    [
        ((0.2, 0.3, 0.4), "holds", "holds"),
        ((0.11, 0.3, 0.4), "holds in part", "holds"),
        ((0.11, 0.12, 0.11), "open", "open"),
        ((0.2, 0.3, 0.0), "fails", "fails"),
        ((0.2, 0.21, 0.3), "holds", "holds in part"),
    ],
)
def test_verdicts(verdicts, gaps, larger, grows):
    found = verdicts(gaps)
    assert (found[LARGER], found[GROWS]) == (larger, grows)


def test_norms_are_compared_on_their_means(verdicts):
    cases = ((0.3, 0.4), (0.1, 0.2)), ((0.1, 0.2), (0.3, 0.4)), ((0.3, 0.4), (0.34, 0.36))
    assert [verdicts(*case)[STRONGER] for case in cases] == ["holds", "fails", "open"]


def test_smaller_sensitivity_is_more_reliance(model):
    metric, family = "relative_foreground_sensitivity", {"family": "l2"}
    records = [model(2.0, e, metric, v, **family) for e, v in ((0.0, 0.5), (0.1, 0.2), (0.2, 0.1))]
    found = {t.statement: t.verdict for t in findings(suite_of(records), CLAIMS)}
    name = "RFS (noise of equal length)"
    assert found[f"Every ℓ2 model has a smaller {name} than the standard one."] == "holds"


def test_seeds_are_averaged_and_averaged_weights_left_out(model):
    records = [model(2.0, 0.5, value=v, seed=s) for s, v in enumerate((0.1, 0.3))]
    records.append(records[0]._replace(model=records[0].model + "@ema", value=0.9))
    curve = suite_of(records).curve(SHAPES_GAPS[0], "a", 2.0)
    assert curve[0.5].value == pytest.approx(0.2, abs=1e-12)


def test_page_shows_every_number_and_escapes_names(model, tmp_path, rendered):
    records = [model(2.0, e, value=v) for e, v in ((0.0, 0.1), (0.25, 0.3))]
    odd = records[1]._replace(
        model="<b>odd</b>", seed=1, metric="accuracy", options={"split": "test"}
    )
    cost = [
        odd._replace(benchmark="training", metric=m, value=v, options={"step": 3})
        for m, v in (("seconds", 12.34), ("peak_memory_mb", 567.0))
    ]
    ends = [
        odd._replace(metric=COMPLETE, measure=measure, seconds=s)
        for measure, s in (("accuracy", 8.5), ("pgd", 100.25))
    ]
    append_records(tmp_path / "records.jsonl", [*records, odd, *cost, *ends])
    page = write_report(tmp_path).read_text()
    assert "&lt;b&gt;odd&lt;/b&gt;" in page and "<b>odd</b>" not in page
    assert "30.0" in page and "[28.0, 32.0]" in page
    costs = page.split("what they cost")[1].split("Every number")[0]
    rows = [re.findall('<td class="n">(.*?)</td>', row) for row in costs.split("<tr>")[2:]]
    # seed, seconds of the training and of all measures together, memory
    assert sorted(rows) == [["0", *["not recorded"] * 3]] * 2 + [["1", "12.3", "108.8", "567"]]
    assert "complete" not in page.split("Every number")[1].split("Run it again")[0]
    assert (tmp_path / "figures" / "background_gap.pdf").exists()
    assert "http" not in page.replace("http-equiv", "")  # self-contained


def test_two_suites_in_one_directory_are_refused(model, tmp_path):
    first = model(2.0, 0.25, value=0.1)
    append_records(tmp_path / "records.jsonl", [first, first._replace(model="other")])
    with pytest.raises(InputError, match="2.0_0.25_0 and other have the same arch"):
        write_report(tmp_path)


def test_no_records_is_an_error(tmp_path):
    with pytest.raises(InputError, match="holds no records: run"):
        write_report(tmp_path)
