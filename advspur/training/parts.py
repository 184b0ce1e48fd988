"""The parts of a run that its config describes: data, network, optimiser, attacks, batches."""

import itertools
import math

import jax
import numpy as np

from advspur._checks import require
from advspur.data import eval_batches, open_dataset, train_batches
from advspur.data.background import changes_background, require_masks
from advspur.data.files import whole_images
from advspur.models import build_network
from advspur.training.attack import UNIFORM, Attack, FreeAttack
from advspur.training.state import count_steps, create_state, make_optimizer, make_schedule

DATA_KEYS = ("data_dir", "mask_dir", "own", "shapes", "color_shift", "skip_unreadable")
AREA_IMAGES = 1000  # images whose masks `uniform_epsilon` reads
AUTO_AUGMENTATION = {
    "imagenet2012": "imagenet",
    "cifar10": "cifar",
    "spurious_shapes": "none",
    "own": "imagenet",
}


def training_data(config):
    """Open the Dataset of a config; check its masks, if needed, and that the run has a step."""
    values = config.to_dict()
    dataset = open_dataset(config.dataset, **{key: values[key] for key in DATA_KEYS})
    if changes_background(**config.background):
        require_masks(dataset.train, "config.background")
    if region_weights(config):
        require_masks(dataset.train, "config.attack.region_weights")
    num_steps = count_steps(config, len(dataset.train))
    require(num_steps > 0, "the run has no step: raise num_epochs or num_steps")
    return dataset


def build(config, dataset):
    """(network, optimizer)."""
    network = build_network(config.arch, dataset.num_classes, stem=config.stem, dtype=config.dtype)
    return network, make_optimizer(config, make_schedule(config, len(dataset.train)))


def first_state(config, dataset, network, optimizer):
    """The TrainState before the first step."""
    options = {"image_size": dataset.image_size, "has_ema": bool(config.ema_decay)}
    return create_state(config.seed, network=network, optimizer=optimizer, **options)


def train_attack(config):
    """(attack, its budget) inside the training step; (None, 0) for standard training."""
    attack, weights = config.attack, region_weights(config)
    if attack.epsilon == 0:
        return None, 0.0
    options = (attack.p, attack.num_steps, attack.relative_step_size, attack.random_start)
    if attack.method == "free":
        return FreeAttack(*options), attack.epsilon
    budget = (attack.epsilon, *weights) if weights else attack.epsilon
    return Attack(*options, attack.loss, attack.method, by_region=bool(weights)), budget


def region_weights(config):
    """(core, rest), the budgets of the regions' pixels over epsilon; () if both are 1."""
    weights = tuple(map(float, config.attack.region_weights))
    return weights if config.attack.epsilon and weights != UNIFORM else ()


def validation_attack(config):
    """(Attack, epsilon) of the PGD accuracy at validation; (None, 0) if it is the clean one."""
    options = config.validation
    epsilon = config.attack.epsilon if options.epsilon < 0 else options.epsilon
    attack = Attack(config.attack.p, options.num_steps, 2.5 / options.num_steps)
    return (attack, epsilon) if epsilon else (None, 0.0)


def step_options(config):
    """The other options of `train_step` that a config sets."""
    return {
        "trades_beta": config.trades_beta,
        "num_parts": config.accumulation_steps,
        "ema_decay": config.ema_decay,
    }


def step_passes(config):
    """Forward passes of a step per image; a gradient counts as three."""
    attack = config.attack
    if not attack.epsilon:
        return 3
    if attack.method == "free":
        return 3 * attack.num_steps
    return 3 + 3 * (attack.num_steps if attack.method == "pgd" else 1)


def training_batches(run):
    """The batches of a run from its first step on."""
    config, source, augmentation = run.config, run.dataset.train, run.config.augmentation
    if augmentation == "auto":
        augmentation = AUTO_AUGMENTATION[config.dataset]
    if config.dataset == "own" and augmentation == "imagenet":
        source = whole_images(source)  # random crops are taken from the whole image
    return train_batches(
        source,
        batch_size=config.batch_size,
        image_size=run.dataset.image_size,
        augmentation=augmentation,
        seed=config.seed,
        start_step=run.start,
        num_workers=config.num_workers,
        background=config.background.to_dict(),
    )


def uniform_epsilon(run):
    """The budget without region weights that has the same mean square over the pixels.

    epsilon sqrt(mean (m core + (1 - m) rest)^2) over the pixels, with masks m in [0, 1], of the
    first AREA_IMAGES training images, as the attack gets them.
    """
    epsilon, weights = run.config.attack.epsilon, region_weights(run.config)
    if not weights:
        return epsilon
    count = -(-AREA_IMAGES // run.config.batch_size)
    core, rest = weights
    squares = [
        np.mean((rest + (core - rest) * (batch.mask / 255.0)) ** 2)
        for batch in itertools.islice(training_batches(run), count)
    ]
    return epsilon * math.sqrt(np.mean(squares))


def recipe(run):
    """The remedies against reliance that a run uses besides its attack, as JSON; {} if none."""
    weights, background = region_weights(run.config), run.config.background
    facts = {}
    if weights:
        facts = {"region_weights": weights, "uniform_epsilon": uniform_epsilon(run)}
    if background.noise_std and background.noise_share:
        facts |= {"noise_std": background.noise_std, "noise_share": background.noise_share}
    if background.mix_share:
        facts["mix_share"] = background.mix_share
    if facts and background.mask_fault != "none":
        facts["mask_fault"] = background.mask_fault
        if background.mask_fault != "random":
            facts["fault_pixels"] = background.fault_pixels
    return facts


def validation_batches(run):
    """This process's share of the validation images, in padded batches as large as in training."""
    config, images, processes = run.config, run.dataset.validation, jax.process_count()
    size = config.batch_size // processes
    count = min(config.validation.num_examples or math.inf, len(images))
    shape = {"batch_size": size, "image_size": run.dataset.image_size}
    share = eval_batches(images, limit=count, every=processes, **shape)
    for _ in range(-(-count // config.batch_size)):
        batch = next(share, None)
        if batch is None:  # this process has no part of the last batch
            batch = next(eval_batches(images, limit=1, **shape))
            batch = batch._replace(valid=np.zeros(size, bool))
        yield batch


def accuracies(counts, prefix="val"):
    """The counts of `eval_step` as shares; NaN if logits are not finite."""
    total = np.where(counts["finite"] == counts["valid"], counts["valid"], math.nan)
    kinds = ("clean", "pgd")
    return {f"{prefix}_{kind}_accuracy": counts[kind] / total for kind in kinds}
