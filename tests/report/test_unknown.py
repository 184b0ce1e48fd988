"""Models of unknown training, several standard models, and own data in the report."""

import math
import re

import matplotlib.pyplot as plt
import pytest

from advspur.intervals import wilson
from advspur.records import append_records, record
from advspur.report import headlines, write_report
from advspur.report.claims import CLAIMS, MASK_CLAIMS, findings
from advspur.report.figures import _robustness, own_figures, save_figures, suite_figures
from advspur.report.headlines import own_headlines
from advspur.report.panels import COLORS, bars, by_accuracy, by_budget, by_model
from advspur.report.suite import STANDARD, UNKNOWN, suite_of

UNKNOWNS = ("timm:vit.in1k", "file.py:net@main")
BIRDS = "my birds"
ACCURACY = headlines.IMAGENET


@pytest.fixture
def unknown(synthetic):
    """The records of two models of unknown training."""
    sources = ("resnet50_2.0_3", "resnet18_2.0_0")
    about = {"train_p": None, "train_epsilon": None, "arch": "vit"}
    return [
        r._replace(model=name, **about)
        for name, source in zip(UNKNOWNS, sources, strict=True)
        for r in synthetic()
        if r.model == source
    ]


def own(metric, value, n=200, model=UNKNOWNS[0], **options):
    found = record(metric, wilson(round(value * n), n), options=options)
    return found._replace(benchmark=BIRDS, model=model, arch="vit")


@pytest.fixture
def birds():
    """The records of one model on own data, with what is no headline."""
    pgd = {"num_steps": 10, "part": "test"}
    noise = {"family": "linf", "part": "test"}
    return [
        own("accuracy", 0.9, part="test"),
        own("accuracy", 0.8, part="other"),
        own("accuracy", 0.7, part="test", classes="few"),
        *(own("group_accuracy", v, part="test", group=g) for g, v in (("aa", 0.9), ("ab", 0.6))),
        own("worst_group_accuracy", 0.6, part="test"),
        own("majority_minority_gap", 0.3, part="test"),
        own("relative_core_sensitivity", 0.2, level=0.25, **noise),
        own("relative_core_sensitivity", 0.25, levels=[0.25], **noise),
        own("norm_fraction_spurious", 0.5, part="test"),
        own("spurious_area", 0.75, part="test"),
        own("pgd_accuracy", 0.9, p="inf", epsilon=0.0, **pgd),
        own("pgd_accuracy", 0.4, p="inf", epsilon=2 / 255, **pgd),
        own("majority_pgd_accuracy", 0.5, p="inf", epsilon=2 / 255, **pgd),
    ]


def page_of(records, directory):
    append_records(directory / "records.jsonl", records)
    page = write_report(directory).read_text()
    return re.sub('src="data[^"]*"', "", page)


def test_unknown_models_change_no_curve_and_no_verdict(synthetic, unknown, judged):
    known, both = suite_of(synthetic()), suite_of(unknown + synthetic())
    assert [m.name for m in both.models[-2:]] == both.unknown() == list(UNKNOWNS)[::-1]
    assert both.models[:-2] == known.models and {m.p for m in both.models[-2:]} == {UNKNOWN}
    assert both.archs() == known.archs() and both.kinds() == [STANDARD, 2.0, math.inf, UNKNOWN]
    claims = CLAIMS + MASK_CLAIMS
    assert findings(both, claims) == [f for of_kind in judged for f in of_kind]
    assert both.baseline(ACCURACY, "resnet18") == known.baseline(ACCURACY, "resnet18")
    alone = suite_of(unknown)
    assert findings(alone, claims) == [] and alone.kinds() == [UNKNOWN]


def test_a_budget_without_a_norm_is_unknown_and_no_budget_is_standard(unknown):
    first = unknown[0]
    cases = (None, 0.25, UNKNOWN), ("inf", None, UNKNOWN), (None, 0.0, STANDARD)
    for p, epsilon, kind in (*cases, ("inf", 0.25, math.inf)):
        change = first._replace(train_p=p, train_epsilon=epsilon)
        assert suite_of([change]).models[0].p == kind


def of_color(artists, color=COLORS[UNKNOWN]):
    return [a for a in artists if plt.matplotlib.colors.same_color(a.get_color(), color)]


def test_every_kind_of_panels_shows_unknown_models(synthetic, unknown):
    suite, gap = suite_of(unknown + synthetic()), headlines.BACKGROUND_GAP
    values = [100 * suite.points(gap)[name].value for name in suite.unknown()]
    axes = by_budget(suite, [gap]).axes
    for axis in axes:
        points = [line for line in of_color(axis.lines) if line.get_marker() == "P"]
        assert [p.get_xdata()[0] for p in points] == [6, 7]  # right of five budgets
        assert [p.get_ydata()[0] for p in points] == pytest.approx(values)
        assert [t.get_text() for t in axis.get_xticklabels()][-2:] == suite.unknown()
    axis = by_accuracy(suite, [headlines.OBJECTNET_RATIO]).axes[0]
    assert {line.get_marker() for line in of_color(axis.lines)} >= {"P", "X"}
    axis = bars(suite, [gap]).axes[0]
    assert axis.patches[-1].get_height() == pytest.approx(sum(values) / 2)
    assert axis.get_xticklabels()[-1].get_text() == "unknown\nn = 2"
    axis = by_model(suite, [gap]).axes[0]
    assert len(axis.patches) == 24
    assert [p.get_width() for p in axis.patches[-2:]] == pytest.approx(values)
    plt.close("all")


def test_a_suite_of_unknown_models_has_all_figures(unknown, tmp_path, rendered):
    suite = suite_of([r for r in unknown if r.benchmark in ("imagenet", "objectnet", "rival10")])
    drawn = {path.stem for _, path, *_ in save_figures(suite_figures(suite), tmp_path)}
    paper = {"figure1_snapshot", "figure5_shifts", "figure6_sensitivity"}
    assert drawn == paper | {"masks_rival10"}


def test_unknown_models_are_lines_of_the_robustness_figure(tmp_path):
    about = {"part": "test", "num_steps": 20, "p": 2.0}
    made = [own("accuracy", 0.9, part="test"), own("pgd_accuracy", 0.5, epsilon=0.25, **about)]
    made = [r._replace(benchmark=headlines.SHAPES) for r in made]
    made += [made[0]._replace(model="not attacked")]
    axis = _robustness(suite_of(made)).axes[0]
    (line,) = axis.lines
    assert line.get_label() == UNKNOWNS[0] and list(line.get_ydata()) == [90, 50]
    plt.close("all")


def test_the_page_tabulates_unknown_and_averages_standard_models(synthetic, unknown, tmp_path):
    records = [r for r in unknown + synthetic() if r.metric == "background_gap"]
    (first,) = (r for r in records if r.model == "resnet18_2.0_0")
    other = first._replace(model="timm:resnet18", value=first.value + 0.02, train_p=None)
    mean = suite_of([*records, other]).baseline(headlines.BACKGROUND_GAP, "resnet18").value
    assert mean == pytest.approx(first.value + 0.01)
    page = page_of([*records, other], tmp_path)
    assert f"<td>{other.model}</td><td>resnet18</td><td>standard</td>" in page
    assert page.count("<td>vit</td><td>unknown</td>") == 2 and "25 models" in page
    assert "Models of unknown training are purple and are not compared with others." in page


def test_the_headlines_of_own_data_come_from_the_records(birds):
    (found,) = own_headlines(suite_of(birds)).values()
    values = {m.name: suite_of(birds).estimate(m, UNKNOWNS[0]).value for m in found}
    expected = {"accuracy: test": 0.9, "accuracy: other": 0.8, "worst group accuracy": 0.6}
    expected |= {"majority-minority gap": 0.3, "relative core sensitivity": 0.25}
    assert values == expected | {"deep NFS": 0.5, "PGD accuracy: ℓ∞ 2/255": 0.4}
    assert [m.even.metric for m in found if m.even] == ["spurious_area"]
    groups = list(own_figures(suite_of(birds)))[1][3]
    assert [m.name for m in groups] == ["group accuracy: aa", "group accuracy: ab"]


def test_heads_parts_and_norms_that_differ_are_named(birds):
    heads = [own("accuracy", 0.5, part="test", head=h) for h in ("adam", "lbfgs")]
    (found,) = own_headlines(suite_of(heads)).values()
    assert [m.name for m in found] == ["accuracy: adam", "accuracy: lbfgs"]
    suite = suite_of([*heads, own("accuracy", 0.9, part="test", model="with classes")])
    (found,) = own_headlines(suite).values()
    values = [{n: e.value for n, e in suite.numbers(m).items()} for m in found]
    assert values == [{UNKNOWNS[0]: 0.5}, {UNKNOWNS[0]: 0.5}, {"with classes": 0.9}]
    l2 = own("pgd_accuracy", 0.3, p=2.0, epsilon=0.25, part="other")
    (found,) = own_headlines(suite_of([*birds, l2])).values()
    names = [m.name.removeprefix("PGD accuracy: ") for m in found]
    assert names[-2:] == ["ℓ∞ 2/255, test", "ℓ2 0.25, other"]


def test_own_data_alone_make_a_page_without_trends(birds, tmp_path):
    page = page_of(birds, tmp_path)
    assert "How a verdict is reached" not in page and "No trend of the paper can be judged" in page
    assert "<span>my birds</span><br>deep NFS</th>" in page
    assert re.findall("<h3>(.*)</h3>\n<figure>", page) == [
        "my birds: by model",
        "my birds: by group",
    ]


def test_own_data_show_models_of_every_norm_and_of_no_number(birds):
    l1 = birds[0]._replace(model="l1", train_p=1.0, train_epsilon=3.0)
    nan = birds[0]._replace(model="nan", value=math.nan, low=math.nan, high=math.nan)
    suite = suite_of([l1, nan])
    (chosen,) = own_headlines(suite).values()
    axis = by_model(suite, chosen).axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["l1"]
    ends = axis.collections[0].get_segments()[0][:, 0]
    assert list(ends) == pytest.approx([100 * l1.low, 100 * l1.high])
    plt.close("all")
    assert list(suite_figures(suite_of([nan]))) == []
