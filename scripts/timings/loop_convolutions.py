"""Claim: on CPU an attack's loop costs what its gradients cost, thanks to _convolutions.for_loops.

python scripts/timings/loop_convolutions.py [PAIRS] prints two lines of JSON: the median, least and
largest ratio of the times of ten gradient steps in a compiled loop and of ten calls of one step,
alternately in one process, without and with `for_loops`.
"""

import sys

import jax
import jax.numpy as jnp
from _paired import print_ratio

from advspur._convolutions import for_loops
from advspur.models import resnet_small
from advspur.training.run_dir import environment

NUM_STEPS = 10


def main(pairs=20):
    network = resnet_small(8)
    images = jax.random.uniform(jax.random.key(0), (64, 32, 32, 3))
    variables = network.init(jax.random.key(1), images)

    def loss(variables, x):
        return jnp.sum(network.apply(variables, x)[0][:, 0])

    def ascend(gradient, x):
        return x + 0.01 * jnp.sign(gradient(x))

    def in_loop(prepare):
        def steps(variables, x):
            gradient = prepare(jax.grad(lambda x: loss(variables, x)))
            return jax.lax.scan(lambda x, _: (ascend(gradient, x), None), x, length=NUM_STEPS)[0]

        compiled = jax.jit(steps)
        return lambda: jax.block_until_ready(compiled(variables, images))

    one = jax.jit(lambda variables, x: ascend(jax.grad(lambda x: loss(variables, x)), x))

    def one_by_one():
        x = images
        for _ in range(NUM_STEPS):
            x = one(variables, x)
        jax.block_until_ready(x)

    for name, prepare in (("plain", lambda f: f), ("for_loops", for_loops)):
        claim = f"{NUM_STEPS} steps in a loop, {name} / one by one, resnet_small, 32 px, batch 64"
        print_ratio(claim, in_loop(prepare), one_by_one, pairs, **environment())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
