"""The inner maximisation of adversarial training: what a step does to its images."""

import functools
from typing import NamedTuple

import jax
import optax

from advspur.attacks import fgsm, pgd
from advspur.attacks.fgsm import FGSM_METHODS

METHODS = ("pgd", *FGSM_METHODS, "free")


class Attack(NamedTuple):
    """The inner maximisation of a step; epsilon is given at each call.

    The loss "kl" is that of TRADES: away from what the network predicts on the image, whatever the
    label. A `method` of `fgsm.FGSM_METHODS` takes no notice of what follows `p` but the loss.
    """

    p: float
    num_steps: int
    relative_step_size: float
    random_start: str = "none"
    loss: str = "cross_entropy"
    method: str = "pgd"

    def __call__(self, logits_fn, images, labels, key, epsilon):
        loss = self.loss
        if loss == "kl":
            predicted = jax.nn.softmax(logits_fn(images))

            def loss(logits, _):  # KL(predicted || .) and a constant
                return optax.softmax_cross_entropy(logits, predicted)

        given, ball = (logits_fn, images, labels, key), {"p": self.p, "epsilon": epsilon}
        if self.method != "pgd":
            return fgsm(*given, method=self.method, loss=loss, **ball)
        return pgd(
            *given,
            **ball,
            num_steps=self.num_steps,
            step_size=epsilon * self.relative_step_size,
            random_start=self.random_start,
            loss=loss,
        )


class AnyAttack(NamedTuple):
    """One of several attacks for each model of a suite: its budget is (which, epsilon)."""

    attacks: tuple  # None: no attack

    def __call__(self, logits_fn, images, labels, key, budget):
        which, epsilon = budget

        def branch(attack):
            return images if attack is None else attack(logits_fn, images, labels, key, epsilon)

        return jax.lax.switch(which, [functools.partial(branch, a) for a in self.attacks])


class FreeAttack(NamedTuple):
    """Free adversarial training (Shafahi et al., NeurIPS 2019, arXiv 1904.12843).

    A batch is replayed `num_replays` times. Each pass, of the network as it trains, gives the
    gradient that moves the weights and the one that moves the images, by `relative_step_size`
    epsilon. The published perturbation goes on from the batch before; this one starts anew.
    """

    p: float
    num_replays: int
    relative_step_size: float
    random_start: str = "none"
