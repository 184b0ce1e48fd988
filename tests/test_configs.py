"""Every config loads, is locked, and names a network and a run that can be built."""

import importlib
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from advspur.benchmarks import BENCHMARKS, own_benchmark
from advspur.models import build_network
from advspur.training.run_dir import check_config

CONFIGS = sorted(p.stem for p in (Path(__file__).resolve().parents[1] / "configs").glob("*.py"))


def load(name):
    return importlib.import_module(f"configs.{name}").get_config()


TRAINING = [name for name in CONFIGS if "arch" in load(name)]


@pytest.mark.parametrize("name", TRAINING)
def test_training_configs_can_be_run(name):
    config = load(name)
    check_config(config)
    network = build_network(config.arch, 10, stem=config.stem, dtype=config.dtype)
    images = jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    assert set(variables) == {"params", "batch_stats"}


@pytest.mark.parametrize("name", CONFIGS)
def test_unknown_keys_are_refused(name):
    with pytest.raises((KeyError, AttributeError), match="learning_rat"):
        load(name).learning_rat = 1


def test_the_ten_budgets_of_the_paper():
    l2 = {load(n).attack.epsilon for n in CONFIGS if n.startswith("l2_")}
    linf = {load(n).attack.epsilon for n in CONFIGS if n.startswith("linf_")}
    assert l2 == {0.25, 0.5, 1.0, 3.0, 5.0}
    assert linf == {k / 255 for k in (0.5, 1, 2, 4, 8)}
    assert all(load(n).attack.p == 2 for n in CONFIGS if n.startswith("l2_"))
    assert all(load(n).attack.p == math.inf for n in CONFIGS if n.startswith("linf_"))


def test_the_recipe_of_the_paper_models():
    config = load("l2_eps3")
    recipe = (config.arch, config.dataset, config.batch_size, config.num_epochs)
    assert recipe == ("resnet50", "imagenet2012", 512, 90)
    assert (config.learning_rate, config.momentum, config.weight_decay) == (0.1, 0.9, 1e-4)
    assert (config.schedule, config.decay_epochs, config.decay_factor) == ("step", 30, 0.1)
    assert (config.attack.num_steps, config.attack.random_start) == (3, "none")
    assert config.attack.relative_step_size == pytest.approx(2 / 3)


def test_standard_training_is_epsilon_zero():
    assert load("standard").attack.epsilon == 0


def test_the_options_of_an_evaluation_are_those_of_its_benchmarks():
    config = load("evaluate")
    assert set(config.options) == set(BENCHMARKS)
    for name, options in config.options.items():
        assert BENCHMARKS[name].complete(options.to_dict()) == BENCHMARKS[name].defaults()
    assert own_benchmark("data").complete(config.own.to_dict())


def test_autoattack_has_budgets_of_its_own_and_is_made_where_asked_for():
    options, chosen = load("evaluate").options, {}
    for name, row in BENCHMARKS.items():
        assert "autoattack" not in row.measures
        attack = options[name].autoattack
        budgets = [tuple(attack[f"{p}_epsilons"]) for p in ("l1", "l2", "linf")]
        chosen[name] = (attack.num_images, attack.images, *budgets)
    small = ((), (0.05, 0.1, 0.15, 0.2, 0.25), tuple(k / 4 / 255 for k in range(1, 5)))
    expected = dict.fromkeys(BENCHMARKS, (1000, "spread", (), (), (4 / 255,)))
    expected["imagenet"] = (5000, "spread", (), (), (4 / 255,))
    expected["cifar10"] = (1000, "first", (12.0,), (0.5,), (8 / 255,))
    expected["cifar_color_shift"] = (1000, "first", *small)
    expected["spurious_shapes"] = (500, "first", (), (0.25,), (2 / 255,))
    assert chosen == expected
