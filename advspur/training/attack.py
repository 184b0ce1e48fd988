"""The inner maximisation of adversarial training: the attack on the images of a step."""

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
    """The inner maximisation of a step; each call takes its budget.

    The budget is epsilon, or (epsilon, core, rest) for an attack `by_region`: that of a pixel is
    then epsilon times the weight of its region, the object's mask or the rest.

    The loss "kl", of TRADES, is the divergence from the prediction on the image, whatever the
    label. The methods of `fgsm.FGSM_METHODS` use only `p`, the loss and `by_region`.
    """

    p: float
    num_steps: int
    relative_step_size: float
    random_start: str = "none"
    loss: str = "cross_entropy"
    method: str = "pgd"
    by_region: bool = False

    def __call__(self, logits_fn, images, labels, key, budget, mask=None):
        """Return adversarial images; `mask` [n, h, w, 1 or 2] is uint8, as in a Batch."""
        epsilon, *weights = budget if self.by_region else (budget,)
        loss = self.loss
        if loss == "kl":
            predicted = jax.nn.softmax(logits_fn(images))

            def loss(logits, _):  # KL(predicted || .) plus a constant
                return optax.softmax_cross_entropy(logits, predicted)

        options = {"p": self.p, "epsilon": epsilon, "loss": loss}
        if self.by_region:
            regions = zip(weights, mask_regions(mask), strict=True)
            options["budget_weights"] = sum(weight * region for weight, region in regions)
        if self.method != "pgd":
            return fgsm(logits_fn, images, labels, key, method=self.method, **options)
        size = epsilon * self.relative_step_size
        options |= {"num_steps": self.num_steps, "step_size": size}
        return pgd(logits_fn, images, labels, key, random_start=self.random_start, **options)


class AnyAttack(NamedTuple):
    """One of several attacks for each model of a suite.

    Its budget is (which, epsilon, core, rest); only an attack `by_region` uses the last two.
    """

    attacks: tuple  # None: no attack

    def __call__(self, logits_fn, images, labels, key, budget, mask):
        which, *budget = budget

        def branch(attack):
            if attack is None:
                return images
            size = budget if attack.by_region else budget[0]
            return attack(logits_fn, images, labels, key, size, mask)

        return jax.lax.switch(which, [functools.partial(branch, a) for a in self.attacks])


class FreeAttack(NamedTuple):
    """Free adversarial training (Shafahi et al., NeurIPS 2019, arXiv 1904.12843).

    A batch is replayed `num_replays` times. Each pass, in training mode, gives the gradients that
    move the weights and, by `relative_step_size` epsilon, the images. The perturbation starts again
    with each batch; the published one is kept from the batch before.
    """

    p: float
    num_replays: int
    relative_step_size: float
    random_start: str = "none"
