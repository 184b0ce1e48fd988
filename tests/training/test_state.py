"""Schedules against their definitions, the optimiser against SGD written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur._checks import InputError
from advspur.training.state import count_steps, make_optimizer, make_schedule
from tests.training.tiny_config import get_config

NUM_TRAIN = 1600  # 100 steps of 16 an epoch


def config(**values):
    result = get_config()
    result.num_steps = 0
    result.num_epochs = 9.0
    result.decay_epochs = 3.0
    result.learning_rate = 0.1
    result.update(values)
    return result


def test_steps_come_from_epochs_unless_given():
    assert count_steps(config(), NUM_TRAIN) == 900
    assert count_steps(config(num_steps=7), NUM_TRAIN) == 7


COSINE = {step: 0.05 * (1 + np.cos(np.pi * step / 900)) for step in (0, 100, 450, 899)}


@pytest.mark.parametrize(
    "options, rates, atol",
    (
        ({"schedule": "step"}, {0: 0.1, 299: 0.1, 300: 0.01, 599: 0.01, 600: 0.001, 899: 0.001}, 0),
        (
            {"schedule": "step", "warmup_epochs": 1.0},  # which moves no decay
            {0: 0, 50: 0.05, 100: 0.1, 299: 0.1, 300: 0.01},
            1e-9,
        ),
        ({"schedule": "cosine"}, COSINE, 1e-7),
    ),
)
def test_schedules_are_their_definitions(options, rates, atol):
    schedule = make_schedule(config(**options), NUM_TRAIN)
    computed = [float(schedule(step)) for step in rates]
    np.testing.assert_allclose(computed, list(rates.values()), rtol=1e-5, atol=atol)


def test_one_cycle_peaks_after_a_quarter():
    schedule = make_schedule(config(schedule="one_cycle"), NUM_TRAIN)
    rates = np.asarray(jax.vmap(schedule)(jnp.arange(901)))
    assert rates.argmax() == 225
    np.testing.assert_allclose(rates.max(), 0.1, rtol=1e-5)
    assert rates[0] < 0.01 and rates[-1] < 1e-4


def test_unknown_schedule_is_named():
    with pytest.raises(InputError, match="schedule = 'linear' is not known.*'step'"):
        make_schedule(config(schedule="linear"), NUM_TRAIN)


def test_optimizer_is_sgd_with_momentum_and_weight_decay_in_the_gradient():
    options = config(momentum=0.9, weight_decay=0.1)
    optimizer = make_optimizer(options, 0.5)
    w, velocity = np.array([1.0, -2.0]), np.zeros(2)
    params = jnp.array(w, jnp.float32)
    state = optimizer.init(params)
    for gradient in (np.array([0.3, 0.1]), np.array([-0.2, 0.4])):
        updates, state = optimizer.update(jnp.array(gradient, jnp.float32), state, params)
        params = params + updates
        velocity = 0.9 * velocity + gradient + 0.1 * w
        w = w - 0.5 * velocity
        np.testing.assert_allclose(params, w, rtol=1e-6)


def test_gradient_clip_bounds_the_norm_before_weight_decay():
    optimizer = make_optimizer(config(gradient_clip=1.0, weight_decay=0.0, momentum=0.0), 1.0)
    params = jnp.zeros(2)
    updates, _ = optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(params), params)
    np.testing.assert_allclose(updates, [-0.6, -0.8], rtol=1e-6)
