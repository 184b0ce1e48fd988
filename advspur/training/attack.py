"""The inner maximisation of adversarial training: what a step does to its images."""

import functools
from typing import NamedTuple

import jax
import optax

from advspur.attacks import fgsm, pgd
from advspur.attacks.fgsm import FGSM_METHODS
from advspur.data.masks import mask_regions

UNIFORM = (1.0, 1.0)  # weights of the core and of the rest
METHODS = ("pgd", *FGSM_METHODS, "free")


class Attack(NamedTuple):
    """The inner maximisation of a step; its budget is given at each call.

    The budget is epsilon; of an attack `by_region` it is (epsilon, core, rest), and that of a pixel
    is epsilon times the weight of its region, of the object's mask or of the rest.

    The loss "kl" is that of TRADES: away from what the network predicts on the image, whatever the
    label. A `method` of `fgsm.FGSM_METHODS` takes no notice of what follows `p` but the loss.
    """

    p: float
    num_steps: int
    relative_step_size: float
    random_start: str = "none"
    loss: str = "cross_entropy"
    method: str = "pgd"
    by_region: bool = False

    def __call__(self, logits_fn, images, labels, key, budget, mask=None):
        """Adversarial images; `mask` [n, h, w, 1 or 2] is uint8, as of a Batch."""
        epsilon, *weights = budget if self.by_region else (budget,)
        loss = self.loss
        if loss == "kl":
            predicted = jax.nn.softmax(logits_fn(images))

            def loss(logits, _):  # KL(predicted || .) and a constant
                return optax.softmax_cross_entropy(logits, predicted)

        given, ball = (logits_fn, images, labels, key), {"p": self.p, "epsilon": epsilon}
        if self.by_region:
            regions = zip(weights, mask_regions(mask), strict=True)
            ball["budget_weights"] = sum(weight * region for weight, region in regions)
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
    """One of several attacks for each model of a suite.

    Its budget is (which, epsilon, core, rest), the last two used by an attack `by_region` alone.
    """

    attacks: tuple  # None: no attack

    def __call__(self, logits_fn, images, labels, key, budget, mask):
        which, *budget = budget

        def branch(attack):
            if attack is None:
                return images
            own = budget if attack.by_region else budget[0]
            return attack(logits_fn, images, labels, key, own, mask)

        return jax.lax.switch(which, [functools.partial(branch, a) for a in self.attacks])


class FreeAttack(NamedTuple):
    """Free adversarial training (Shafahi et al., NeurIPS 2019, arXiv 1904.12843).

    A batch is replayed `num_replays` times. Each pass, of the network as it trains, gives the
    gradient that moves the weights and the one that moves the images, by `relative_step_size`
    epsilon. The published perturbation is kept from the batch before; this one starts again.
    """

    p: float
    num_replays: int
    relative_step_size: float
    random_start: str = "none"
