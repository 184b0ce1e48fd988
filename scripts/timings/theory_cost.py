"""How the cost of a minimiser grows with m and with the grid: python ... [FIGURE.png]

For each m random Wishart problems in one batch; for the grid, a sweep of ever more problems.
"""

import json
import math
import os
import sys
import time

import jax

jax.config.update("jax_num_cpu_devices", os.cpu_count())
jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from theory_certified import random_models  # noqa: E402

from advspur.theory import collapse_radius, minimize_adversarial_loss, sweep_nfs  # noqa: E402

BATCHES = {5: 8192, 10: 4096, 20: 512, 50: 128, 100: 32, 200: 8, 500: 2, 1000: 1, 2000: 1, 4000: 1}
NORMS = (1.0, 1.5, 2.0, 3.0, math.inf)
ROWS = (10, 100, 1000, 10_000)
COLUMNS = 1000


def seconds(function, *arguments):
    jax.block_until_ready(function(*arguments))
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def main(figure="runs/theory_cost.png"):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rng = np.random.default_rng(0)
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for p in NORMS:
        costs = {}
        for m, n in BATCHES.items():
            models = random_models(rng, m, 3 * n)
            models = jax.tree.map(lambda x: x[::3], models)  # the Wishart third
            radius = jax.vmap(lambda model, p=p: collapse_radius(model, p=p))(models)
            epsilons = radius * jnp.asarray(rng.uniform(0.1, 0.9, n))
            solve = jax.jit(jax.vmap(lambda a, e, p=p: minimize_adversarial_loss(a, e, p=p)))
            costs[m] = seconds(solve, models, epsilons) / n
            gap = float(jnp.max(solve(models, epsilons).gap))
            print(json.dumps({"p": str(p), "m": m, "n": n, "s": costs[m], "gap": gap}), flush=True)
        left.loglog(list(costs), list(costs.values()), "o-", ms=3, label=f"p = {p:g}")
    left.set(xlabel="features m", ylabel="seconds per problem")
    left.legend(frameon=False)
    for p in (1.0, 2.0, math.inf):
        costs = {}
        for rows in ROWS:
            etas, epsilons = np.linspace(0, 2, rows), np.linspace(0.001, 2, COLUMNS)
            cost = seconds(lambda p=p, a=etas, b=epsilons: sweep_nfs(a, b, p=p).nfs)
            costs[rows * COLUMNS] = cost
            print(json.dumps({"p": str(p), "grid": rows * COLUMNS, "s": cost}), flush=True)
        right.loglog(list(costs), list(costs.values()), "o-", ms=3, label=f"p = {p:g}")
    right.set(xlabel="problems in the grid (m = 5)", ylabel="seconds")
    right.legend(frameon=False)
    os.makedirs(os.path.dirname(figure) or ".", exist_ok=True)
    plt.savefig(figure, dpi=150)
    print(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
