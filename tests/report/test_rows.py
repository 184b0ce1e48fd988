"""Every number that the report looks up is one that an evaluation of the rows writes."""

import pytest

from advspur.report import claims, headlines
from advspur.report.color_shift import arms_of
from advspur.report.figures import FIGURES
from advspur.report.own import own_headlines
from advspur.report.suite import suite_of
from tests.report.evaluated import evaluate_all

NAME = "m"


@pytest.fixture(scope="module")
def records(quick_programs):
    with pytest.MonkeyPatch.context() as monkeypatch:
        found = evaluate_all(monkeypatch)
    return [r._replace(model=NAME, arch="a", train_p=2.0, train_epsilon=0.0) for r in found]


def test_every_measure_of_the_report_is_recorded(records):
    shown = {
        "headlines": headlines.HEADLINES,
        "figures": [m for _, _, _, of_figure, _ in FIGURES for m in of_figure],
        "claims": [c.headline for c in (*claims.CLAIMS, *claims.MASK_CLAIMS)],
    }
    suite = suite_of(records)
    for place, found in shown.items():
        for measure in filter(None, (m for f in found for m in (f, f.over, f.even))):
            assert suite.matching(measure, NAME), (place, measure)
    assert arms_of(suite)
    assert {b: [m.name for m in own] for b, own in own_headlines(suite).items()} == {
        "cifar10": ["accuracy"]
    }


def test_the_made_up_suite_has_the_names_and_options_of_an_evaluation(records, synthetic):
    def forms(found):
        options = ((r, r.options.keys() - {"degenerate", "head"}) for r in found)
        return {(r.benchmark, r.metric, frozenset(names)) for r, names in options}

    made = [r for r in synthetic(("resnet18",)) if r.metric != "complete"]
    known = {(b, m, names - {"num_epochs"}) for b, m, names in forms(records)}
    assert forms(made) <= known
