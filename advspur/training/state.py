"""The training state, and the optimiser and schedule that a config names."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from advspur._checks import check_choice

SCHEDULES = ("step", "cosine", "one_cycle")


class TrainState(NamedTuple):
    """Everything that a step changes, and its key; nothing has a device axis."""

    step: jax.Array  # int32: steps done
    variables: dict  # {"params", "batch_stats"}
    opt_state: tuple
    ema: dict  # moving average of `variables`; {} without one
    key: jax.Array  # the run's base key; a step folds its number in


@functools.partial(jax.jit, static_argnames=("network", "optimizer", "image_size", "has_ema"))
def create_state(seed, *, network, optimizer, image_size, has_ema=False):
    """The state before the first step; compiled once for all seeds."""
    key_init, key_steps = jax.random.split(jax.random.PRNGKey(seed))
    variables = network.init(key_init, jnp.zeros((1, image_size, image_size, 3)))
    ema = jax.tree.map(jnp.copy, variables) if has_ema else {}
    opt_state = optimizer.init(variables["params"])
    return TrainState(jnp.zeros((), jnp.int32), variables, opt_state, ema, key_steps)


def count_steps(config, num_train):
    """The number of steps of the whole run."""
    return config.num_steps or round(config.num_epochs * num_train / config.batch_size)


def make_schedule(config, num_train):
    """The learning rate as a function of the step.

    "step": times decay_factor every decay_epochs; "cosine": half a cosine to 0; "one_cycle": up
    over the first quarter, then down to 0 (Smith & Topin 2017, arXiv 1708.07120).
    """
    check_choice("schedule", config.schedule, SCHEDULES)
    num_steps = count_steps(config, num_train)
    steps_per_epoch = num_train / config.batch_size
    peak = config.learning_rate
    if config.schedule == "one_cycle":
        return optax.cosine_onecycle_schedule(num_steps, peak, pct_start=0.25)
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(peak, max(num_steps - warmup, 1))
    else:
        every = config.decay_epochs * steps_per_epoch
        boundaries = [round(every * k) for k in range(1, int(num_steps / every) + 1)]
        drops = {b - warmup: config.decay_factor for b in boundaries if b > warmup}
        main = optax.piecewise_constant_schedule(peak, drops)
    rise = optax.linear_schedule(0, peak, warmup)
    return optax.join_schedules([rise, main], [warmup]) if warmup else main


def make_optimizer(config, schedule):
    """Gradient clipping, then weight decay on the gradient, then SGD with momentum."""
    if config.attack.epsilon and config.attack.method == "free":  # one update a replay
        per_step, num_replays = schedule, config.attack.num_steps

        def schedule(count):
            return per_step(count // num_replays)

    clip = [optax.clip_by_global_norm(config.gradient_clip)] if config.gradient_clip else []
    decay = optax.add_decayed_weights(config.weight_decay)
    return optax.chain(*clip, decay, optax.sgd(schedule, momentum=config.momentum))
