"""A suite of two architectures on all benchmarks: look-ups, counts, correlations, figures, page."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from advspur.intervals import Estimate
from advspur.records import Record, append_records
from advspur.report import headlines, resampling, write_report
from advspur.report.claims import CLAIMS, MASK_CLAIMS, findings
from advspur.report.figures import FIGURES
from advspur.report.page import _headlines
from advspur.report.panels import by_budget
from advspur.report.suite import STANDARD, suite_of

PAPER = FIGURES[:5]  # the figures of the paper's benchmarks
RCS = headlines.RCS.metric


@pytest.fixture
def page_of(tmp_path):
    """Function (records) -> (titles of the figures drawn, text of the page)."""

    def page(records):
        append_records(tmp_path / "records.jsonl", records)
        text = write_report(tmp_path).read_text()
        assert text.count("<img") == len(list(tmp_path.glob("*/*.pdf")))
        _, _, figures = text.partition('id="figures"')
        titles = re.findall("<h3>(.*)</h3>\n<figure>", figures)
        return set(titles), re.sub('src="data[^"]*"|</?abbr[^>]*>', "", text)

    return page


def estimate(value, half=0.01):
    return Estimate(value, value - half, value + half, 100)


def of(records, benchmark, metric, name, **options):
    (found,) = (
        r
        for r in records
        if (r.benchmark, r.metric, r.model) == (benchmark, metric, name)
        and r.options.items() >= options.items()
    )
    return found


def test_look_ups_take_the_headline_of_the_architecture(synthetic):
    records = synthetic()
    suite = suite_of(records)
    assert suite.archs() == ["resnet18", "resnet50"] and suite.norms() == [2.0, math.inf]
    assert len(suite.models) == 22
    assert [m.p for m in suite.models[:7]] == [STANDARD] + 5 * [2.0] + [math.inf]
    curve = suite.curve(headlines.RFS, "resnet50", 2.0)
    assert list(curve) == [0.25, 0.5, 1.0, 3.0, 5.0]
    asked = {"family": "linf", "levels": [k / 255 for k in range(30, 211, 30)]}
    expected = of(records, "rival10", headlines.RFS.metric, "resnet50_2.0_5", **asked)
    assert curve[5.0][:3] == expected[1:4]
    base = suite.baseline(headlines.BIRDS[1], "resnet18")
    expected = of(records, "waterbirds", "minority_accuracy", "resnet18_2.0_0", head="adam")
    assert base.value == expected.value
    assert len(suite.curve(headlines.BACKGROUND_GAP, "resnet18", math.inf)) == 5


def test_a_ratio_is_of_two_numbers_of_the_same_model(synthetic):
    records = synthetic()
    suite = suite_of(records)
    part = of(records, "objectnet", "accuracy", "resnet50_2.0_3", scoring="full").value
    whole = of(records, "imagenet", "accuracy", "resnet50_2.0_3").value
    found = suite.curve(headlines.OBJECTNET_RATIO, "resnet50", 2.0)[3.0]
    assert found.value == pytest.approx(part / whole, rel=1e-12)
    assert found.low < found.value < found.high and found.num_examples == 18514


@pytest.mark.parametrize("change", ({"value": math.nan}, {"high": math.inf}, {"low": math.nan}))
def test_numbers_without_a_finite_interval_are_no_points(synthetic, change):
    records = [
        r._replace(**change) if (r.model, r.metric) == ("resnet18_2.0_1", "background_gap") else r
        for r in synthetic()
    ]
    curve = suite_of(records).curve(headlines.BACKGROUND_GAP, "resnet18", 2.0)
    assert list(curve) == [0.25, 0.5, 3.0, 5.0]


def test_counts_of_models_beyond_their_own_baseline():
    first = (estimate(0.1), [estimate(0.2), estimate(0.3), estimate(0.05)])
    second = (estimate(0.5), [estimate(0.4)])
    assert resampling.count_beyond([first, second], 1) == (2, 2, 2, 4)
    assert resampling.count_beyond([first, second], -1) == (2, 2, 2, 4)
    assert resampling.count_beyond([second], -1) == (1, 1, 1, 1)


def test_a_baseline_is_drawn_once_for_all_its_models():
    """Many models level with a shared baseline: in 1 draw of 12 it is above all 11, or below."""
    tied = [estimate(0.1)] * 11
    low, high = resampling.count_beyond([(estimate(0.1), tied)], 1)[1:3]
    assert (low, high) == (0, 11)  # 11 fair coins would give 2 to 9
    exact = [(estimate(0.1, half=1e-9), [e]) for e in tied]
    assert resampling.count_beyond(exact, 1)[1:3] == (0, 9)  # measured 0; draws 2 to 9


def test_rank_correlation_is_spearmans():
    values = (0.1, 0.3, 0.2, 0.5, 0.4)
    exact = resampling.rank_correlation(dict(enumerate(map(estimate, values, [1e-9] * 5))))
    expected = stats.spearmanr(range(5), values).statistic  # 1 - 6 * 4 / 120
    np.testing.assert_allclose(exact[:3], 3 * [expected], atol=1e-12)
    assert expected == pytest.approx(0.8, abs=1e-12) and exact.num_examples == 5
    noise = resampling.rank_correlation({e: estimate(0.1 + 1e-9 * e) for e in range(5)})
    assert noise.low == pytest.approx(-0.9, abs=1e-9) and noise.high == 1
    assert math.isnan(resampling.rank_correlation({e: estimate(0.1) for e in range(5)}).value)


@pytest.mark.parametrize(
    ("benchmark", "part", "verdict"),
    [
        ("ImageNet-C", "roughly constant (our reading: within 10%", "holds"),
        ("ObjectNet", "Every ℓ2 model has a smaller ratio", "holds"),
        ("RIVAL10", "The RFS falls with the ℓ∞ budget.", "holds"),
        ("Salient ImageNet-1M", "The RCS falls with the ℓ2 budget.", "holds"),
        ("Salient ImageNet-1M", "The RCS does not fall with the ℓ∞ budget", "holds"),
        ("ImageNet-9", "9 of 10 ℓ2 models have a larger background gap than the st", "holds"),
        ("Waterbirds", "10 of 10 ℓ2 models have a larger majority-minority", "holds"),
        ("Waterbirds", "6 of 10 ℓ∞ models have a larger majority-minority", "fails"),
        ("ImageNet-9", "ℓ2 resnet50, ε = 5, is 18.9%.", "fails"),
        ("ImageNet-9", "standard resnet50 is 9.7%.", "holds"),
        ("Waterbirds", "the majority-minority gap is larger for ℓ2 than for ℓ∞.", "holds"),
    ],
)
def test_paper_claims_on_the_made_up_suite(judged, benchmark, part, verdict):
    (found,) = (f for f in judged[0] if f.about == benchmark and part in f.statement)
    assert found.verdict == verdict


def test_masks_have_claims_of_their_own(judged):
    claims, found = judged
    assert len(found) == 3 * 3 * 5  # benchmarks, headlines, statements
    assert {f.about for f in found} == {"RIVAL10", "Salient ImageNet-1M", "ImageNet-9"}
    assert not {f.statement for f in found} & {f.statement for f in claims}


@pytest.mark.parametrize(("value", "verdict"), [(0.185, "holds"), (0.178, "fails")])
def test_a_number_of_the_paper_holds_where_the_interval_covers_it(synthetic, value, verdict):
    measured = of(synthetic(), "imagenet9", "relative_background_gap", "resnet50_2.0_5")
    measured = measured._replace(value=value, low=value - 0.01, high=value + 0.01)
    (found,) = (t for t in findings(suite_of([measured]), CLAIMS) if "18.9%" in t.statement)
    assert found.verdict == verdict
    shown = f"{100 * value:.1f}% [{100 * value - 1:.1f}, {100 * value + 1:.1f}]."
    assert found.detail == shown


@pytest.mark.parametrize(
    ("factor", "half", "verdict"),
    [(0.95, 0.001, "holds"), (0.85, 0.001, "fails"), (0.91, 0.02, "open"), (1.2, 0.001, "fails")],
)
def test_roughly_constant_is_within_ten_percent(synthetic, factor, half, verdict):
    def flat(r):
        value = 0.35 * (factor if r.model == "resnet18_inf_0.03137" else 1)
        return r._replace(value=value, low=value - half / 4, high=value + half / 4)

    records = [
        flat(r) if r.metric == "mean_corruption_accuracy" else
        r._replace(value=0.7, low=0.699, high=0.701) if r.benchmark == "imagenet" else r
        for r in synthetic()
    ]  # fmt: skip
    (found,) = findings(suite_of(records), CLAIMS[:1])
    assert found.about == "ImageNet-C" and found.verdict == verdict
    assert f"of 20 models: {100 * (factor - 1):+.1f}%" in found.detail
    assert found.detail.endswith("resnet18, ℓ∞ 8/255.")


def test_fewer_models_than_the_papers_leave_its_counts_open(synthetic):
    suite = suite_of(synthetic(("resnet50",)))
    (count,) = findings(suite, [c for c in CLAIMS if c.paper == 9])
    assert count.verdict == "open (5 of 5 models)"


def test_page_of_the_whole_suite(synthetic, page_of):
    titles, page = page_of(synthetic())
    of_masks = {MASKS + of[0].title for of in headlines.MASKS}
    assert titles == {t for _, t, *_ in PAPER} | of_masks - {f"{MASKS}spurious_shapes"}
    assert "levels = 0.1176/0.2353/0.3529/0.4706/0.5882/0.7059/0.8235" in page
    assert "levels = 0.25, trials = 5, dilation_rounds = 15" in page
    headline = page.split("Headline numbers</h2>")[1].split("<h2")[0]
    assert headline.count("<tr>") == 23 and "–" not in headline
    assert headline.count("<svg") > 22 * 20
    for column in ("mCE", "accuracy (subset)", "ratio to ImageNet accuracy", "worst group"):
        assert f"<br>{column}</th>" in headline
    assert "fog/3" in page and "lbfgs" in page and "complete" not in page


def test_intervals_are_drawn_on_the_scale_of_a_column_of_many(model):
    gaps = {0.01 * k: 0.1 * k for k in range(1, 7)}  # ± 2 points: from 8 to 62
    suite = suite_of([model("inf", e, value=v) for e, v in gaps.items()])
    plotted = [row[1][0][2] for row in _headlines(suite)["rows"]]
    assert plotted[0] == [0, 3.7, 7.4] and plotted[-1] == [92.6, 96.3, 100]
    few = suite_of([model("inf", e, value=v) for e, v in list(gaps.items())[:5]])
    assert {row[1][0][2] for row in _headlines(few)["rows"]} == {None}


MASKS = "Attacks and gradients on masks: "
SNAPSHOT, SHIFTS, SENSITIVITY, GAP, BIRDS = (title for _, title, *_ in PAPER)


@pytest.mark.parametrize(
    ("keep", "drawn"),
    [
        (lambda r: r.arch == "resnet18" and r.train_p == 2.0 and r.benchmark == "imagenet9",
         {SNAPSHOT, GAP, f"{MASKS}ImageNet-9"}),
        (lambda r: r.model != "resnet50_2.0_0" and r.benchmark in ("imagenet", "objectnet"),
         {SNAPSHOT, SHIFTS}),
        (lambda r: r.train_epsilon and r.metric == "background_gap", {SNAPSHOT, GAP}),
        (lambda r: r.train_epsilon in (0, 5.0) and r.benchmark in ("objectnet", "waterbirds"),
         {SNAPSHOT, BIRDS}),
        (lambda r: r.model == "resnet50_2.0_5" and r.metric == RCS, {SNAPSHOT, SENSITIVITY}),
        (lambda r: r.model == "resnet50_2.0_0", {SNAPSHOT}),
        (lambda r: r.benchmark == "imagenet_c", set()),
    ],
    ids=("one architecture and norm", "a missing baseline", "no baseline", "one budget",
         "one robust model", "one standard model", "no accuracy to compare with"),
)  # fmt: skip
def test_a_part_of_the_suite_makes_a_page(synthetic, page_of, keep, drawn):
    assert page_of([r for r in synthetic() if keep(r)])[0] == drawn


def test_a_marker_is_hollow_unless_clearly_different_from_its_own_baseline():
    import matplotlib.pyplot as plt

    gap = headlines.BACKGROUND_GAP
    values = {("a", 0.0): 0.1, ("a", 1.0): 0.11, ("a", 3.0): 0.2, ("b", 0.0): 0.3, ("b", 1.0): 0.31}
    values |= {("c", 1.0): 0.9}  # no baseline, so nothing is clear
    records = [
        Record(gap.metric, *estimate(v), {}, 0.0, gap.benchmark, "", f"{a}{e}", a, 2.0, e)
        for (a, e), v in values.items()
    ]
    figure = by_budget(suite_of(records), [gap])
    markers = {
        (line.get_marker(), round(float(line.get_ydata()[0]))): line.get_markerfacecolor()
        for line in figure.axes[0].lines
        if len(line.get_ydata()) == 1 and line.get_marker() in "os^"
    }
    plt.close(figure)
    white = {place for place, color in markers.items() if color == "white"}
    assert white == {("o", 11), ("s", 31), ("^", 90)}
    assert set(markers) - white == {("o", 10), ("o", 20), ("s", 30)}


def test_numbers_that_are_nan_make_a_page(synthetic, page_of):
    nan = {name: math.nan for name in ("value", "low", "high")}
    measured = [r for r in synthetic() if r.benchmark in ("imagenet", "objectnet", "waterbirds")]
    records = [r._replace(**nan) if i % 5 < 2 else r for i, r in enumerate(measured)]
    titles, page = page_of(records)
    assert SNAPSHOT in titles and "nan" in page.split("Every number")[1]
    everything = [r._replace(**nan, num_examples=0) for r in measured]
    assert findings(suite_of(everything), CLAIMS + MASK_CLAIMS) == []
