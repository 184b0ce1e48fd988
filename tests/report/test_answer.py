"""The first screen: answers on made-up intervals by hand, matrices; the data beside the page."""

import csv
import json
import re

import pytest

from advspur.intervals import wilson
from advspur.records import append_records, read_records, record
from advspur.report import headlines as h
from advspur.report import write_report
from advspur.report.answer import answer_of, tally
from advspur.report.claims import CLAIMS, Finding, findings
from advspur.report.evidence import CORE, SPURIOUS, UNCLEAR, evidence, points_to
from advspur.report.glossary import WORDS, marker
from advspur.report.matrix import models_matrix, trends_matrix
from advspur.report.suite import suite_of


@pytest.fixture
def trained(model):
    """Function of background gaps, ± 2 points -> the suite of those ℓ2 models and a standard."""

    def make(gaps):
        records = [model(2.0, 0.0, value=0.1)]
        return suite_of(records + [model(2.0, i + 1.0, value=gap) for i, gap in enumerate(gaps)])

    return make


@pytest.mark.parametrize(
    ("gaps", "word", "start"),
    [
        ((0.2, 0.3), "Yes.", "All 2 adversarially trained models have a clearly larger"),
        ((0.11, 0.2, 0.3), "Mostly yes.", "2 of 3 adversarially trained models have a clearly"),
        ((0.11, 0.12, 0.3), "In part.", "1 of 3"),
        ((0.11, 0.09), "Not clearly.", "0 of 2"),
        ((0.0, 0.3), "It depends.", "1 of 2"),
        ((0.0, 0.11), "Not clearly.", "0 of 2"),
        ((0.0, 0.02), "No, less.", "0 of 2"),
        ((0.0, 0.02, 0.11), "No.", "0 of 3"),
        ((0.3,), "Yes.", "1 of 1 adversarially trained model has a clearly larger"),
    ],
)
def test_the_word_follows_from_the_intervals(trained, gaps, word, start):
    answer = answer_of(trained(gaps), [], [])
    assert answer.word == word and answer.sentences.startswith(start)
    less = re.search(r", (\d) a clearly smaller one", answer.sentences)
    assert (int(less[1]) if less else 0) == sum(gap <= 0.02 for gap in gaps)


def test_the_answer_names_the_numbers_of_the_largest_budgets(model):
    records = [model(2.0, 0.0, value=0.1), model(2.0, 0.5, value=0.2), model(2.0, 1.0, value=0.3)]
    records.append(model("inf", 4 / 255, value=0.05))
    answer = answer_of(suite_of(records), [], [])
    numbers = "10.0 points [8.0, 12.0] for the standard a, 30.0 points [28.0, 32.0] after ℓ2 "
    numbers += "training with ε = 1 and 5.0 points [3.0, 7.0] after ℓ∞ training with ε = 4/255."
    assert answer.sentences.endswith(f"The background gap is {numbers}")


def test_seeds_are_said_and_one_standard_model_is_judged_by_itself(model):
    records = [model(2.0, e, value=v, seed=s) for e, v in ((0.0, 0.1), (1.0, 0.3)) for s in (0, 1)]
    answer = answer_of(suite_of(records), [], [])
    assert "1 of 1" in answer.sentences and "(each a mean over seeds)." in answer.sentences
    alone = model(2.0, 0.0, value=0.097)._replace(
        metric="relative_background_gap", benchmark="imagenet9", arch="resnet50", model="r50"
    )
    suite = suite_of([alone, alone._replace(metric="background_gap")])
    trends = findings(suite, CLAIMS)
    assert len(trends) == 1  # the paper's 9.7%
    answer = answer_of(suite, trends, [])
    assert answer[:2] == ("Does r50 rely on spurious features?", "Yes.")


def test_less_sensitivity_is_more_reliance(model):
    about = {"metric": h.RFS_METRIC, "family": "l2"}
    records = [model(2.0, 0.0, value=0.3, **about), model(2.0, 1.0, value=0.1, **about)]
    answer = answer_of(suite_of(records), [], [])
    assert answer.word == "Yes." and "a clearly smaller RFS" in answer.sentences


@pytest.mark.parametrize(
    ("gap", "rfs", "disagree"),
    [(0.1, 0.5, False), (0.5, 0.1, False), (0.5, 0.5, True), (0.1, 0.1, True), (0.3, 0.1, False)],
)
def test_measures_that_point_the_other_way_are_named(model, gap, rfs, disagree):
    """A larger gap and a smaller RFS are more reliance; the standard model has 0.3 of both."""
    about = {"metric": h.RFS_METRIC, "family": "linf"}
    records = [model(2.0, 0.0, value=0.3), model(2.0, 1.0, value=gap)]
    records += [model(2.0, 0.0, value=0.3, **about), model(2.0, 1.0, value=rfs, **about)]
    text = answer_of(suite_of(records), [], []).sentences
    assert text.endswith("But the RFS (noise of equal deviation) points the other way.") == disagree


def test_without_models_the_claims_answer():
    found = [Finding("2a", "s", v, "") for v in ("holds", "holds", "fails")]
    assert tally(found) == "2 hold, 1 fails"
    answer = answer_of(suite_of([]), [], [("Predicted?", []), ("Linear?", found)])
    assert answer[:2] == ("Linear?", "In part.")
    assert answer.sentences == "Of 3 claims tested here, 2 hold, 1 fails."
    partly = [f._replace(verdict=f.verdict.replace("fails", "open")) for f in found]
    assert answer_of(suite_of([]), [], [("Linear?", partly)]).word == "Mostly."
    words = {v: answer_of(suite_of([]), [Finding("", "", v, "")] * 2, []).word for v in WORDS_OF}
    assert words == WORDS_OF


WORDS_OF = {"holds": "Yes.", "holds in part": "In part.", "fails": "No.", "open": "Not clearly."}


def own(metric, value, name="net", n=200, **options):
    found = record(metric, wilson(round(value * n), n), options=options)
    return found._replace(benchmark="my birds", model=name, arch="vit")


def test_what_each_number_of_one_model_points_to():
    """Wilson's intervals of 200: 0.3 and 0.5 are clearly above 0, 0.5 clearly below 0.75."""
    noise = {"family": "linf", "levels": [0.25]}
    records = [
        own("accuracy", 0.9),
        own("majority_minority_gap", 0.3),
        own("relative_core_sensitivity", 0.5, **noise),
        own("norm_fraction_spurious", 0.5),
        own("spurious_area", 0.75),
    ]
    suite = suite_of(records)
    found = {x.metric: points_to(suite, x, "net") for x in evidence(suite)}
    assert found == {
        "majority_minority_gap": SPURIOUS,
        "relative_core_sensitivity": CORE,
        "norm_fraction_spurious": CORE,
    }
    answer = answer_of(suite, [], [])
    assert answer.question == "Does net rely on spurious features?"
    assert answer.word == "Measures disagree." and answer.sentences == (
        "Measures that clearly point to spurious features: 1 of 3; to the core: 2; unclear: 0. "
        "The majority-minority gap on my birds is 30.0 points [24.1, 36.7]."
    )
    wide = records[1]._replace(low=-0.1)
    assert points_to(suite_of([wide]), evidence(suite)[0], "net") == UNCLEAR
    matrix = models_matrix(suite)
    assert matrix.columns == ["net"] and len(matrix.rows) == 3
    ((label, ((chip,),)), *_) = matrix.rows
    assert label == "my birds: majority-minority gap"
    assert chip[:2] == ("spurious: 30.0 points [24.1, 36.7]", SPURIOUS)


def test_several_models_are_ordered_by_the_first_measure():
    records = [own("majority_minority_gap", v, name) for name, v in (("a", 0.1), ("b", 0.4))]
    answer = answer_of(suite_of(records), [], [])
    assert answer.question == "Which of these 2 models rely on spurious features?"
    assert answer.word == "All of them." and re.search(
        r"b \(40.0.* a \(10.0.* least", answer.sentences
    )
    unclear = [r._replace(low=-0.1, value=0.1) for r in records]
    answer = answer_of(suite_of(unclear), [], [])
    assert answer.word == "Not clearly." and "relies most" not in answer.sentences
    mixed = [*unclear[:1], own("relative_core_sensitivity", 0.5, "b", levels=[0.25])]
    assert answer_of(suite_of(mixed), [], []).word == "0 of 2."
    assert answer_of(suite_of([own("norm_fraction_spurious", 0.5)]), [], []).word == "Not measured."


def test_no_measure_of_reliance_is_said():
    assert answer_of(suite_of([]), [], []).word == "Nothing to test."
    answer = answer_of(suite_of([own("accuracy", 0.9)]), [], [])
    assert answer.word == "Not measured." and answer.draw is None


def test_the_matrix_has_every_claim_at_its_place(trained):
    suite = trained((0.2, 0.3))
    found = findings(suite, CLAIMS)
    matrix = trends_matrix(found)
    chips = [chip for _, cells in matrix.rows for cell in cells for chip in cell]
    assert len(chips) == len(found) and {c.anchor for c in chips} == {
        f"claim-{i}" for i in range(len(found))
    }
    ((label, cells),) = [row for row in matrix.rows if row[0] == "spurious_shapes: background gap"]
    column = matrix.columns.index("every robust model relies more")
    assert [c.text for c in cells[column]] == ["ℓ2 holds"]


def test_links_of_the_page_lead_somewhere(synthetic, tmp_path):
    append_records(tmp_path / "records.jsonl", synthetic())
    page = write_report(tmp_path).read_text()
    targets, ids = set(re.findall('href="#([^"]*)"', page)), re.findall(' id="([^"]*)"', page)
    assert targets <= set(ids) and len(ids) == len(set(ids))
    verdicts = json.loads((tmp_path / "claims.json").read_text())
    assert page.count('<tr id="') == len(verdicts) and {v["section"] for v in verdicts} == {
        "trends",
        "masks",
    }
    first = page.split("<nav")[0]
    assert "majority-minority gap on Waterbirds" in re.sub("<[^>]*>", "", first)
    assert first.count("<img") == 1 and 'class="matrix"' in first
    for word in ("RFS", "mCE"):
        assert page.count(f">{word}</abbr>") == 1 and f"<dt>{word}</dt>" in page
    assert "<dt>ρ</dt>" not in page  # no colour shift here


def test_records_csv_holds_every_number(model, tmp_path):
    records = [model(2.0, e, value=0.1, levels=[1, 2], part="a,b") for e in (0.0, 0.25)]
    records.append(records[0]._replace(metric="accuracy", options={"note": 'say "x"'}))
    append_records(tmp_path / "records.jsonl", records)
    write_report(tmp_path)
    with (tmp_path / "records.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    read = read_records(tmp_path / "records.jsonl")
    assert len(rows) == 3 and [r["model"] for r in rows] == [r.model for r in read]
    assert [float(r["high"]) for r in rows] == [r.high for r in read]
    by_metric = {r["metric"]: r for r in rows}
    assert by_metric["background_gap"]["option_part"] == "a,b"
    assert json.loads(by_metric["background_gap"]["option_levels"]) == [1, 2]
    assert by_metric["accuracy"]["option_note"] == 'say "x"'
    assert by_metric["accuracy"]["option_part"] == ""


def test_an_abbreviation_is_explained_at_its_first_use_only():
    marked = marker()
    assert marked("a < RFS, MIXED-SAME") == (
        f'a &lt; <abbr title="{WORDS["RFS"]}">RFS</abbr>, '
        f'<abbr title="{WORDS["MIXED-SAME"]}">MIXED-SAME</abbr>'
    )
    assert marked("RFS of NFSX") == "RFS of NFSX"
    assert marked("deep NFS").count("<abbr") == 1 and marked.seen == {
        "RFS",
        "MIXED-SAME",
        "deep NFS",
    }
