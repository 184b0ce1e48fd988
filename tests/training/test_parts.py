"""What a run is made of: the budget that region weights amount to, and data that allow them."""

import math
import types

import numpy as np
import pytest

from advspur._checks import InputError
from advspur.data.table import array_source
from advspur.training import parts
from advspur.training.run_dir import check_config
from tests.training.tiny_config import get_config


def config_of(*weights, **changes):
    config = get_config()
    config.update_from_flattened_dict({"attack.region_weights": weights, **changes})
    return config


def run_of(config):
    return types.SimpleNamespace(config=config, dataset=parts.training_data(config), start=0)


@pytest.mark.parametrize("weights", ((0.0, 1.0), (1.0, 0.0), (0.5, 3.0)))
def test_the_uniform_budget_has_the_mean_square_of_the_weighted_one(weights):
    run = run_of(config_of(*weights))
    masks = run.dataset.train.columns["mask"]
    budgets = 0.25 * np.where(masks, *weights)
    expected = math.sqrt(np.mean(budgets**2))
    made = parts.recipe(run)
    assert made["region_weights"] == weights
    assert made["uniform_epsilon"] == pytest.approx(expected, rel=3e-3)  # not whole epochs


def test_equal_weights_and_standard_training_are_no_recipe():
    for config in (config_of(1.0, 1.0), config_of(0.0, 1.0, **{"attack.epsilon": 0.0})):
        run = run_of(config)
        assert parts.recipe(run) == {} and parts.uniform_epsilon(run) == config.attack.epsilon
    assert parts.train_attack(config_of(1.0, 1.0))[1] == 0.25
    attack, budget = parts.train_attack(config_of(0.0, 2.0))
    assert attack.by_region and budget == (0.25, 0.0, 2.0)


def test_data_without_masks_have_no_regions(monkeypatch):
    config = config_of(0.0, 1.0)
    dataset = parts.training_data(config)
    bare = array_source(*(dataset.train.columns[k] for k in ("image", "label")), num_classes=8)
    monkeypatch.setattr(parts, "open_dataset", lambda *_, **options: dataset._replace(train=bare))
    with pytest.raises(InputError, match="attack.region_weights needs masks"):
        parts.training_data(config)


@pytest.mark.parametrize(
    "weights", ((0.0, 0.0), (1.0,), (0.0, math.inf), (-1.0, 1.0), ("a", 1.0), (1.0, math.nan))
)
def test_weights_that_no_attack_has_are_refused(weights):
    with pytest.raises(InputError, match="give two finite numbers >= 0"):
        check_config(config_of(*weights))


def test_free_training_has_one_budget():
    free = {"attack.method": "free", "attack.p": math.inf}
    check_config(config_of(1.0, 1.0, **free))
    with pytest.raises(InputError, match="has one budget for all pixels"):
        check_config(config_of(0.0, 1.0, **free))
