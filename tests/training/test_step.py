"""One step: several devices against one, the attack's semantics, averages by hand."""

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advspur.attacks import fgsm, pgd
from advspur.data.batches import Batch, shard
from advspur.models.classifier import normalize
from advspur.models.resnet import ResNet
from advspur.training import (
    Attack,
    FreeAttack,
    TrainingDiverged,
    eval_step,
    make_eval_step,
    make_train_step,
    train_step,
)
from advspur.training.parts import accuracies
from advspur.training.run import Run
from advspur.training.state import create_state, make_optimizer, make_schedule
from tests.training.tiny_config import get_config

NETWORK = ResNet((1,), False, 8, 4, "small")
OPTIMIZER = optax.sgd(0.1, momentum=0.9)
FACTS = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
ATTACK = Attack(p=2.0, num_steps=2, relative_step_size=0.7)
EPSILON = 0.5
CORE = np.zeros((16, 16, 16, 1), np.uint8)
CORE[:, 4:12, 4:12] = 255
CORE[0] = 51  # soft: a fifth of the core's budget and four of the rest's


@pytest.fixture(scope="module")
def state():
    start = create_state(0, network=NETWORK, optimizer=OPTIMIZER, image_size=16, has_ema=True)
    # Running statistics that differ from every batch's: mixing the two up would show.
    stats = jax.tree.map(lambda x: x + 0.3, start.variables["batch_stats"])
    return start._replace(variables={**start.variables, "batch_stats": stats})


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return Batch(
        image=rng.integers(0, 256, (16, 16, 16, 3), dtype=np.uint8),
        label=rng.integers(0, 8, 16, dtype=np.int32),
        mask=CORE,
        valid=np.arange(16) < 13,
    )


@functools.cache
def single_step(**options):
    step = functools.partial(train_step, network=NETWORK, optimizer=OPTIMIZER, **FACTS, **options)
    return jax.jit(step)


def assert_close(a, b, *, atol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=atol), a, b)


BY_REGION = ATTACK._replace(by_region=True)
FREE = FreeAttack(2.0, num_replays=2, relative_step_size=0.6, random_start="ball")
TRADES = {"attack": BY_REGION._replace(loss="kl", random_start="ball"), "trades_beta": 6.0}


@pytest.mark.parametrize(
    "options, budget, atol",
    (
        ({"attack": ATTACK, "ema_decay": 0.5}, EPSILON, 2e-6),
        ({"attack": ATTACK._replace(random_start="ball", num_steps=1)}, EPSILON, 2e-6),
        (TRADES, (EPSILON, 0.0, 1.0), 5e-6),
        ({"attack": FREE}, EPSILON, 5e-6),
    ),
)
def test_four_devices_take_the_step_of_one(state, batch, options, budget, atol):
    """Also with random starts: the key of an image depends on its place in the whole batch."""
    assert jax.local_device_count() == 4
    one, metrics_one = single_step(**options)(state, batch, budget)
    step = make_train_step(NETWORK, OPTIMIZER, **FACTS, **options)
    four, metrics_four = step(jax.device_get(state), shard(batch, 4), budget)
    # float32 sums in another order; gradients are of order 1
    assert_close(four.variables, one.variables, atol=atol)
    assert_close(four.ema, one.ema, atol=atol)
    assert_close(metrics_four, metrics_one, atol=1e-5)
    assert int(four.step) == 1


def test_one_compilation_serves_all_budgets(state, batch):
    step = single_step(attack=ATTACK, ema_decay=0.5)
    results = [float(step(state, batch, epsilon)[1]["loss"]) for epsilon in (0.1, 0.5, 2.0)]
    assert step._cache_size() == 1
    assert results[0] < results[1] < results[2]


def test_step_trains_on_pgd_images_of_the_frozen_network(state, batch):
    _, metrics = single_step(attack=ATTACK)(state, batch, EPSILON)
    images = jnp.asarray(batch.image, jnp.float32) / 255

    def frozen(x):
        return NETWORK.apply(state.variables, normalize(x, **FACTS))[0]

    adversarial = pgd(
        frozen, images, batch.label, p=2.0, epsilon=EPSILON, num_steps=2, step_size=0.35
    )
    (logits, _), _ = NETWORK.apply(
        state.variables, normalize(adversarial, **FACTS), train=True, mutable=["batch_stats"]
    )
    loss = -jax.nn.log_softmax(logits)[jnp.arange(16), batch.label].mean()
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    accuracy = np.mean(np.argmax(logits, -1) == batch.label)
    np.testing.assert_allclose(metrics["accuracy"], accuracy, atol=1e-7)


@pytest.mark.parametrize("method", ("pgd", "n_fgsm"))
def test_the_budget_of_a_region_is_epsilon_times_its_weight(state, batch, method):
    attack = BY_REGION._replace(method=method)
    images, keys = jnp.asarray(batch.image) / 255, jax.random.split(jax.random.key(1), 16)
    frozen = lambda x: NETWORK.apply(state.variables, normalize(x, **FACTS))[0]  # noqa: E731
    inputs = frozen, images, jnp.asarray(batch.label), keys
    adversarial = attack(*inputs, (EPSILON, 0.5, 2.0), CORE)
    weights = np.where(CORE == 255, 0.5, 2.0)
    weights[0] = 0.2 * 0.5 + 0.8 * 2
    call = {"p": 2.0, "epsilon": EPSILON, "budget_weights": weights}
    if method == "pgd":
        expected = pgd(*inputs, num_steps=2, step_size=0.35, **call)
    else:
        expected = fgsm(*inputs, method=method, **call)
    np.testing.assert_allclose(adversarial, expected, rtol=0, atol=2e-6)
    moved = np.abs(np.asarray(attack(*inputs, (EPSILON, 0.0, 1.0), CORE) - images))
    assert moved[1:, 4:12, 4:12].max() == 0 and moved[1:, :4].max() > 0


def test_equal_weights_change_nothing(state, batch):
    """And one of a core of weight 0 is not; the budgets share one compilation."""
    plain, _ = single_step(attack=ATTACK)(state, batch, EPSILON)
    step = single_step(attack=BY_REGION)
    equal, _ = step(state, batch, (EPSILON, 1.0, 1.0))
    half, _ = step(state, batch, (EPSILON / 2, 2.0, 2.0))
    rest, _ = step(state, batch, (EPSILON, 0.0, 1.0))
    assert step._cache_size() == 1
    for same in (equal, half):
        assert_close(same.variables["params"], plain.variables["params"], atol=2e-6)
    kernels = (jax.tree.leaves(x.variables["params"]) for x in (rest, plain))
    assert max(float(jnp.abs(a - b).max()) for a, b in zip(*kernels, strict=True)) > 1e-4


def test_batch_statistics_move_by_the_training_batch_alone(state, batch):
    new, _ = single_step(attack=ATTACK)(state, batch, 0.0)
    plain, _ = single_step()(state, batch, 0.0)
    assert_close(new.variables["batch_stats"], plain.variables["batch_stats"], atol=1e-6)


def test_ema_of_variables_by_hand(state, batch):
    new, _ = single_step(attack=ATTACK, ema_decay=0.5)(state, batch, EPSILON)
    decay = 1 / 10  # (1 + t) / (10 + t) at t = 0
    expected = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, state.ema, new.variables)
    assert_close(new.ema, expected, atol=1e-7)


def test_standard_loss_by_hand(state, batch):
    images = normalize(jnp.asarray(batch.image, jnp.float32) / 255, **FACTS)
    (logits, _), _ = NETWORK.apply(state.variables, images, train=True, mutable=["batch_stats"])
    of_label = jax.nn.log_softmax(logits)[jnp.arange(16), batch.label].mean()
    np.testing.assert_allclose(single_step()(state, batch, 0.0)[1]["loss"], -of_label, rtol=1e-5)


def test_eval_step_counts_valid_examples_once_on_any_number_of_devices(state, batch):
    images = normalize(jnp.asarray(batch.image, jnp.float32) / 255, **FACTS)
    logits = NETWORK.apply(state.variables, images)[0]
    right = int(np.sum((np.argmax(logits, -1) == batch.label)[:13]))
    one = eval_step(state.variables, batch, EPSILON, network=NETWORK, attack=ATTACK, **FACTS)
    four = make_eval_step(NETWORK, attack=ATTACK, **FACTS)(
        state.variables, shard(batch, 4), EPSILON
    )
    assert int(one["clean"]) == right and int(one["valid"]) == 13
    assert {k: int(v) for k, v in four.items()} == {k: int(v) for k, v in one.items()}
    assert int(one["pgd"]) <= right


def test_validation_of_logits_that_overflow_is_nan(state, batch, tmp_path):
    """Finite weights whose logits are not: the argmax of NaN would be class 0."""
    head = state.variables["params"]["fc"]
    head = jax.tree.map(lambda x: jnp.full_like(x, 3.3e38), head)
    variables = state.variables | {"params": state.variables["params"] | {"fc": head}}
    evaluate = make_eval_step(NETWORK, attack=ATTACK, **FACTS)
    batch = shard(batch, 4)
    good, bad = (jax.device_get(evaluate(v, batch, EPSILON)) for v in (state.variables, variables))
    assert good["finite"] == good["valid"] == 13
    assert bad["finite"] < bad["valid"] == 13
    assert all(map(math.isfinite, accuracies(good).values()))
    results = accuracies(bad)
    assert all(map(math.isnan, results.values()))
    run = Run(get_config(), tmp_path, types.SimpleNamespace(train=range(64)), None)
    with pytest.raises(TrainingDiverged, match="step 7: val_clean_accuracy = nan, val_pgd_accurac"):
        run.check(results, 7)


def test_nan_on_one_device_is_seen_on_all(state, batch):
    """The third of four gets NaN for its images: no number of the step is finite then."""

    def attack(logits_fn, images, labels, key, epsilon, mask):
        return jnp.where(jax.lax.axis_index("batch") == 2, jnp.nan, images)

    step = make_train_step(NETWORK, OPTIMIZER, attack=attack, **FACTS)
    new, metrics = step(jax.device_get(state), shard(batch, 4), 0.0)
    assert np.isnan(metrics["gradient_norm"]) and np.isnan(metrics["state_norm"])
    assert all(np.all(np.isnan(x)) for x in jax.tree.leaves(new.variables["params"]["conv1"]))


def test_a_step_in_16_bits_keeps_parameters_and_statistics_in_32(state, batch):
    """bfloat16 has 8 bits of mantissa: the step agrees with that in float32 to about a percent."""
    network = NETWORK.clone(dtype=jnp.bfloat16)
    step = functools.partial(train_step, network=network, optimizer=OPTIMIZER, **FACTS)
    new, metrics = jax.jit(step)(state, batch, 0.0)
    assert {x.dtype.name for x in jax.tree.leaves((new.variables, new.opt_state))} == {"float32"}
    exact, of_exact = single_step()(state, batch, 0.0)
    np.testing.assert_allclose(metrics["loss"], of_exact["loss"], rtol=0.02)
    changes = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.tree.map(jnp.subtract, s, t))])
        for s, t in ((new.variables, state.variables), (exact.variables, state.variables))
    ]
    assert 0 < np.linalg.norm(changes[0] - changes[1]) < 0.1 * np.linalg.norm(changes[1])


def by_hand(state, images, labels, stats=None):
    """(logits, new statistics) of a training pass."""
    variables = {**state.variables, **({"batch_stats": stats} if stats else {})}
    (logits, _), new = NETWORK.apply(
        variables, normalize(images, **FACTS), train=True, mutable=["batch_stats"]
    )
    return logits, new["batch_stats"]


def test_trades_by_hand(state, batch):
    """loss(x) + beta KL(f(x) || f(x + d)), the statistics moved by x and then by x + d."""
    images = jnp.asarray(batch.image, jnp.float32) / 255

    def attack(logits_fn, x, labels, key, epsilon, mask=None):
        return jnp.clip(x + epsilon * jnp.sign(jnp.sin(jnp.arange(x.size))).reshape(x.shape), 0, 1)

    new, metrics = single_step(attack=attack, trades_beta=3.0)(state, batch, 0.1)
    adversarial = attack(None, images, None, None, 0.1)
    clean, stats = by_hand(state, images, batch.label)
    moved, stats = by_hand(state, adversarial, batch.label, stats)
    p, log_p, log_q = jax.nn.softmax(clean), jax.nn.log_softmax(clean), jax.nn.log_softmax(moved)
    divergence = jnp.sum(p * (log_p - log_q), axis=-1)
    loss = jnp.mean(-log_p[jnp.arange(16), batch.label] + 3 * divergence)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
    assert_close(new.variables["batch_stats"], stats, atol=1e-5)
    accuracy = np.mean(np.argmax(moved, -1) == batch.label)
    np.testing.assert_allclose(metrics["accuracy"], accuracy, atol=1e-7)


def test_the_attack_of_trades_raises_the_divergence(tiny_classifier, batch):
    images, logits_fn = jnp.asarray(batch.image, jnp.float32) / 255, tiny_classifier.logits

    def divergence(x):
        log_p, log_q = (jax.nn.log_softmax(logits_fn(z)) for z in (images, x))
        return float(jnp.sum(jnp.exp(log_p) * (log_p - log_q)))

    def attacked(steps, relative_step_size):
        attack = Attack(2.0, steps, relative_step_size, random_start="ball", loss="kl")
        return divergence(attack(logits_fn, images, batch.label, jax.random.key(0), EPSILON))

    assert 0 < attacked(1, 0.0) < attacked(1, 0.5) < attacked(8, 0.5)


def test_a_batch_in_parts_is_the_mean_of_its_parts(state, batch):
    new, metrics = single_step(num_parts=2)(state, batch, 0.0)
    halves = [jax.tree.map(lambda x, s=s: x[s], batch) for s in (slice(0, 8), slice(8, 16))]
    steps = [single_step()(state, half, 0.0) for half in halves]
    changes = [
        jax.tree.map(jnp.subtract, s.variables["params"], state.variables["params"])
        for s, _ in steps
    ]
    expected = jax.tree.map(lambda x, a, b: x + (a + b) / 2, state.variables["params"], *changes)
    assert_close(new.variables["params"], expected, atol=2e-6)
    np.testing.assert_allclose(metrics["loss"], np.mean([m["loss"] for _, m in steps]), rtol=1e-5)
    images = jnp.asarray(batch.image, jnp.float32) / 255
    _, stats = by_hand(state, images[:8], batch.label)
    _, stats = by_hand(state, images[8:], batch.label, stats)
    assert_close(new.variables["batch_stats"], stats, atol=1e-5)


def test_free_training_by_hand(state, batch):
    """Two replays: each moves the weights by a gradient, and the images by their gradient."""
    attack = FreeAttack(jnp.inf, num_replays=2, relative_step_size=0.6)
    new, metrics = single_step(attack=attack)(state, batch, 0.1)
    images, rows = jnp.asarray(batch.image, jnp.float32) / 255, jnp.arange(16)

    def loss(params, stats, x):
        (logits, _), moved = NETWORK.apply(
            {"params": params, "batch_stats": stats},
            normalize(x, **FACTS),
            train=True,
            mutable=["batch_stats"],
        )
        return -jnp.mean(jax.nn.log_softmax(logits)[rows, batch.label]), moved["batch_stats"]

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 2), has_aux=True))
    params, stats = (state.variables[name] for name in ("params", "batch_stats"))
    opt_state, x = state.opt_state, images
    for _ in range(2):
        (value, stats), (grads, grad_x) = gradient(params, stats, x)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        x = jnp.clip(jnp.clip(x + 0.06 * jnp.sign(grad_x), images - 0.1, images + 0.1), 0, 1)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4)
    # a sign of a gradient within rounding of 0 may go either way
    assert_close(new.variables["params"], params, atol=2e-4)
    assert_close(new.variables["batch_stats"], stats, atol=1e-4)
    assert int(new.step) == 1


def test_the_rate_of_free_training_falls_by_steps_not_by_replays():
    config = get_config()
    config.attack.method, config.attack.num_steps, config.schedule = "free", 3, "one_cycle"
    config.momentum = config.weight_decay = 0.0
    schedule = make_schedule(config, 64)
    optimizer, params = make_optimizer(config, schedule), {"w": jnp.ones(())}
    opt_state, rates = optimizer.init(params), []
    for _ in range(6):
        updates, opt_state = optimizer.update({"w": jnp.ones(())}, opt_state, params)
        rates.append(-float(updates["w"]))
    expected = [float(schedule(step)) for step in (0, 0, 0, 1, 1, 1)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
