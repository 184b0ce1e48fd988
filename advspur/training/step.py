"""One step of (adversarial) training and one of validation; only this file uses pmap.

`train_step` and `eval_step` are pure and take `axis_name`: under pmap the batch is split over
devices, gradients are averaged and BatchNorm uses the statistics of the whole batch, so one
device and eight give the same step. The state never has a device axis.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from advspur._checks import require
from advspur._convolutions import for_loops
from advspur.attacks.box import confine
from advspur.attacks.parts import image_keys, per_image, start_points
from advspur.data.transforms import to_unit
from advspur.models.classifier import normalize
from advspur.norms import steepest_ascent
from advspur.training.attack import FreeAttack
from advspur.training.state import TrainState


def make_train_step(network, optimizer, **options):
    """The pmapped `train_step`: (state, sharded batch, budget) -> (state, metrics).

    The batch is [devices, n / devices, ...]; the state is donated. `options` are those of
    `train_step`. The budget is an argument, so one compilation serves all budgets of a norm.
    """
    step = functools.partial(
        train_step, network=network, optimizer=optimizer, axis_name="batch", **options
    )
    return jax.pmap(
        step, axis_name="batch", in_axes=(None, 0, None), out_axes=None, donate_argnums=0
    )


def make_eval_step(network, **options):
    """The pmapped `eval_step`: (variables, sharded batch, budget) -> counts."""
    step = functools.partial(eval_step, network=network, axis_name="batch", **options)
    return jax.pmap(step, axis_name="batch", in_axes=(None, 0, None), out_axes=None)


def over_models(step, num_devices, *, donate_argnums=(), **options):
    """The pmapped `train_step` or `eval_step`, with its options, for several models at once.

    All arguments and results have the axes [devices, models a device]. A device's models are
    vmapped; a single one is not, so that the other models' attacks cost it nothing.
    """
    step = functools.partial(step, **options)

    def of_device(*args):
        if len(jax.tree.leaves(args)[0]) > 1:
            return jax.vmap(step)(*args)
        result = step(*jax.tree.map(lambda x: x[0], args))
        return jax.tree.map(lambda x: x[None], result)

    call = {"devices": jax.local_devices()[:num_devices], "donate_argnums": donate_argnums}
    return jax.pmap(of_device, axis_name="batch", **call)


def train_step(
    state,
    batch,
    budget,
    *,
    network,
    optimizer,
    mean,
    std,
    attack=None,
    trades_beta=0.0,
    num_parts=1,
    ema_decay=0.0,
    axis_name=None,
):
    """min over parameters of the mean over the batch of max_{||d||_p <= epsilon} loss(x + d).

    The attack sees the network with frozen (running) batch statistics; the descent step sees the
    adversarial images with the statistics of the batch (the `robustness` library's semantics).

    Args:
      state: TrainState.
      batch: Batch of uint8 images.
      budget: of the attack: epsilon in [0, 1] pixel units, or more, see `Attack`.
      attack: an `Attack`, a `FreeAttack`, or None for standard training.
      trades_beta: if > 0, descend on TRADES's loss(x) + beta KL(f(x) || f(x + d)) instead (Zhang et
        al., ICML 2019, arXiv 1901.08573), with separate batch statistics for x and x + d.
      num_parts: process the batch in this many parts, to save memory, and average their gradients.
        Each part has its own batch statistics.
      ema_decay: of the averaged weights; step t uses at most (1 + t) / (10 + t).
    Returns:
      (new state, metrics): "loss" and "accuracy" on the (adversarial) training images,
      "gradient_norm", and "state_norm", the l2 norm of the new variables: finite only if all of
      them are.
    """
    require(
        not isinstance(attack, FreeAttack) or (num_parts == 1 and not trades_beta),
        "a FreeAttack takes its gradients in one pass: num_parts must be 1 and trades_beta 0",
    )
    # The key of an image depends on its place in the batch of all devices, not on their number.
    places = jnp.arange(len(batch.label))
    if axis_name is not None:
        places += len(batch.label) * jax.lax.axis_index(axis_name)
    key = jax.random.fold_in(state.key, state.step)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, places)
    options = {"mean": mean, "std": std, "trades_beta": trades_beta}
    loss_fn = functools.partial(_loss, network=network.clone(axis_name=axis_name), **options)

    def average(tree):
        return tree if axis_name is None else jax.lax.pmean(tree, axis_name)

    def update(params, opt_state, grads):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    if isinstance(attack, FreeAttack):
        descend = functools.partial(_replay, attack=attack)
    else:
        if attack is not None:
            attack = functools.partial(attack, _logits_fn(network, state.variables, mean, std))
        descend = functools.partial(_descend, attack=attack, num_parts=num_parts)
    (params, batch_stats, opt_state), (loss, accuracy, grads) = descend(
        (state.variables["params"], state.variables["batch_stats"], state.opt_state),
        (batch.image, batch.label, batch.mask, keys),
        budget,
        loss_fn=loss_fn,
        average=average,
        update=update,
    )
    variables = {"params": params, "batch_stats": batch_stats}
    ema = state.ema
    if ema_decay:
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, ema, variables)
    metrics = {
        "loss": loss,
        "accuracy": accuracy,
        "gradient_norm": optax.tree.norm(grads),
        "state_norm": optax.tree.norm(variables),
    }
    return TrainState(state.step + 1, variables, opt_state, ema, state.key), metrics


def _loss(params, batch_stats, images, adversarial, labels, *, network, mean, std, trades_beta):
    """(mean loss, (new batch statistics, accuracy on the adversarial images))."""

    def logits_of(batch_stats, images):
        (logits, _), new = network.apply(
            {"params": params, "batch_stats": batch_stats},
            normalize(images, mean, std),
            train=True,
            mutable=["batch_stats"],
        )
        return logits, new["batch_stats"]

    targets = jax.nn.one_hot(labels, network.num_classes)
    if trades_beta:
        clean, batch_stats = logits_of(batch_stats, images)
        logits, batch_stats = logits_of(batch_stats, adversarial)
        divergence = optax.kl_divergence(jax.nn.log_softmax(logits), jax.nn.softmax(clean))
        loss = optax.softmax_cross_entropy(clean, targets) + trades_beta * divergence
    else:
        logits, batch_stats = logits_of(batch_stats, adversarial)
        loss = optax.softmax_cross_entropy(logits, targets)
    return jnp.mean(loss), (batch_stats, jnp.mean(jnp.argmax(logits, -1) == labels))


def _descend(start, inputs, budget, *, attack, num_parts, loss_fn, average, update):
    """((params, batch_stats, opt_state), (loss, accuracy, gradient)) after the update."""
    params, batch_stats, opt_state = start
    gradient = jax.value_and_grad(loss_fn, has_aux=True)

    def part(batch_stats, inputs):
        """(batch_stats, (loss, accuracy, gradient)) of a part of the batch."""
        image, labels, mask, keys = inputs
        adversarial = images = to_unit(image)
        if attack is not None:
            adversarial = attack(images, labels, keys, budget, mask)
        (loss, (batch_stats, accuracy)), grads = gradient(
            params, batch_stats, images, adversarial, labels
        )
        return batch_stats, (loss, accuracy, grads)

    if num_parts == 1:
        batch_stats, results = part(batch_stats, inputs)
    else:
        gradient = for_loops(gradient)
        parts = [x.reshape(num_parts, -1, *x.shape[1:]) for x in inputs]
        batch_stats, results = jax.lax.scan(part, batch_stats, parts)
        results = jax.tree.map(lambda x: jnp.mean(x, axis=0), results)
    batch_stats, results = average((batch_stats, results))
    params, opt_state = update(params, opt_state, results[-1])
    return (params, batch_stats, opt_state), results


def _replay(start, inputs, epsilon, *, attack, loss_fn, average, update):
    """((params, batch_stats, opt_state), (loss, accuracy, gradient)) after the last replay."""
    image, labels, _, keys = inputs
    adversarial = images = to_unit(image)
    epsilons = jnp.broadcast_to(epsilon, labels.shape).astype(images.dtype)
    ball = {"p": attack.p, "epsilon": epsilons, "bounds": (0.0, 1.0)}
    if attack.random_start != "none":
        keys = image_keys(keys, len(labels))
        adversarial = start_points(keys, images, kind=attack.random_start, **ball)
    gradient = for_loops(jax.value_and_grad(loss_fn, argnums=(0, 3), has_aux=True))

    def body(carry, _):
        params, batch_stats, opt_state, x = carry
        (loss, (batch_stats, accuracy)), (grads, grad_x) = gradient(
            params, batch_stats, images, x, labels
        )
        batch_stats, results = average((batch_stats, (loss, accuracy, grads)))
        params, opt_state = update(params, opt_state, results[-1])
        direction = jax.vmap(lambda g: steepest_ascent(g, p=attack.p))(grad_x)
        x += per_image(attack.relative_step_size * epsilons) * direction
        return (params, batch_stats, opt_state, confine(x, images, **ball)), results

    carry, results = jax.lax.scan(body, (*start, adversarial), length=attack.num_replays)
    return carry[:-1], jax.tree.map(lambda x: x[-1], results)


def eval_step(variables, batch, budget, *, network, mean, std, attack=None, axis_name=None):
    """Count the valid examples: {"clean", "pgd" (correct), "finite" (logits), "valid"}.

    Without an attack the PGD count is the clean one.
    """
    logits_fn = _logits_fn(network, variables, mean, std)
    images = to_unit(batch.image)

    def predict(x):
        logits = logits_fn(x)
        is_right = jnp.argmax(logits, axis=-1) == batch.label
        return is_right & batch.valid, jnp.all(jnp.isfinite(logits), axis=-1) & batch.valid

    clean, finite = predict(images)
    robust = clean
    if attack is not None:
        # The attack returns the image itself if nothing nearby has a larger loss.
        adversarial = attack(logits_fn, images, batch.label, None, budget, batch.mask)
        survives, also_finite = predict(adversarial)
        robust, finite = clean & survives, finite & also_finite
    outcomes = {"clean": clean, "pgd": robust, "finite": finite, "valid": batch.valid}
    counts = jax.tree.map(jnp.sum, outcomes)
    return counts if axis_name is None else jax.lax.psum(counts, axis_name)


def _logits_fn(network, variables, mean, std):
    return lambda x: network.apply(variables, normalize(x, mean, std))[0]
