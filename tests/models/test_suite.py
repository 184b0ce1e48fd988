"""The published models: names, files, figures."""

import itertools
import json
import math

import pytest

from advspur.models import SUITE, published_model, suite
from tests.refusals import refused


def test_the_suite_is_the_papers():
    assert len(SUITE) == 22 and len({m.name for m in SUITE}) == 22
    assert sum(m.train_epsilon > 0 for m in SUITE) == 20
    for arch in ("resnet18", "resnet50"):
        of_arch = [m for m in SUITE if m.arch == arch]
        l2 = [m.train_epsilon for m in of_arch if m.train_p == 2]
        linf = [m.train_epsilon * 255 for m in of_arch if m.train_p == math.inf]
        assert l2 == [0, 0.25, 0.5, 1, 3, 5]
        assert linf == pytest.approx([0.5, 1, 2, 4, 8])


def test_accuracies_are_the_published_ones(shared):
    facts = json.loads((shared / "facts" / "published_numbers.json").read_text())
    tables, found = facts["salman_clean_top1"], {}
    for arch, norm in itertools.product(("resnet18", "resnet50"), ("l2", "linf")):
        for epsilon, percent in tables[f"{arch}_{norm}{'_over255' * (norm == 'linf')}"].items():
            model = published_model(f"{arch}_{norm}_eps{epsilon}")
            found[model.name] = model.clean_accuracy, pytest.approx(percent / 100)
    assert len(found) == 30 and all(given == expected for given, expected in found.values())


def test_both_forms_of_a_name_mean_the_same_model():
    whole = published_model("resnet50_linf_eps4")
    assert whole == published_model("resnet50_linf_eps4.0")
    assert whole.name == "resnet50_linf_eps4.0" and whole.train_epsilon == 4 / 255
    assert whole.files == ("resnet50_linf_eps4.0.ckpt", "resnet50_linf_eps4.ckpt")
    assert published_model("resnet18_l2_eps3.0").name == "resnet18_l2_eps3"
    assert published_model("resnet18_l2_eps0.25").files == ("resnet18_l2_eps0.25.ckpt",)
    wide = published_model("wide_resnet50_2_l2_eps1")
    assert wide.arch == "wide_resnet50_2" and wide.clean_accuracy is None
    for other in ("resnet34_l2_eps3", "resnet18_l1_eps3", "resnet18_l2_eps3.ckpt", "runs/x"):
        assert published_model(other) is None


def test_the_l2_list_is_a_choice():
    chosen = suite(l2_epsilons=(0.01, 5))
    assert [m.name for m in chosen][1:3] == ["resnet18_l2_eps0.01", "resnet18_l2_eps5"]
    assert len(chosen) == 16
    refused("the release has 0.01, 0.03, .*, 5", suite, l2_epsilons=(2,))
    refused("l2_epsilons has 0; ", suite, l2_epsilons=(0,))
