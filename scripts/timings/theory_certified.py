"""Solve 100,000 random problems and say how many carry a certificate: python ... [SEED] [SHARE]

Covariances are Wishart, a factor model, or of condition number 1e4; m = 5, 20, 100; p = 1, 1.5, 2,
3, inf; epsilon from 1e-3 to 0.999 of the collapse radius, log-uniform; noise_std 0.01 to 1.
A problem is certified if the duality gap is at most 1e-9.
"""

import math
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from advspur.theory import GaussianLinearModel, collapse_radius, minimize_adversarial_loss

COUNTS = {5: 12_000, 20: 7_000, 100: 1_000}  # for each p
NORMS = (1.0, 1.5, 2.0, 3.0, math.inf)


def random_models(rng, m, n):
    """n models of m features, a third of each kind of covariance."""
    kind = np.arange(n) % 3
    data = rng.normal(size=(n, m, m + 3))
    wishart = data @ data.transpose(0, 2, 1) / (m + 3)
    loadings = rng.normal(size=(n, m, 2))
    factor = loadings @ loadings.transpose(0, 2, 1)
    factor += np.eye(m) * rng.uniform(0.05, 1, (n, m))[:, None]
    vectors = np.linalg.qr(data[..., :m])[0]
    values = 10 ** rng.uniform(-4, 0, (n, m))
    values[:, 0], values[:, 1] = 1e-4, 1
    ill = vectors * values[:, None] @ vectors.transpose(0, 2, 1)
    covariance = np.choose(kind[:, None, None], [wishart, factor, ill])
    covariance = (covariance + covariance.transpose(0, 2, 1)) / 2
    is_spurious = np.broadcast_to(np.arange(m) >= m // 2, (n, m))
    target = np.where(is_spurious, 0, rng.normal(size=(n, m)))
    noise = 10 ** rng.uniform(-2, 0, n)
    return GaussianLinearModel(*map(jnp.asarray, (covariance, target, noise, is_spurious)))


def main(seed=0, share=1.0):
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(int(seed))
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, seed {seed}")
    total = missed = 0
    for m, count in COUNTS.items():
        for p in NORMS:
            n = max(3, int(count * float(share)))
            models = random_models(rng, m, n)
            share_of_radius = jnp.asarray(np.exp(rng.uniform(np.log(1e-3), np.log(0.999), n)))
            radius = jax.vmap(lambda model, p=p: collapse_radius(model, p=p))(models)
            solve = jax.jit(jax.vmap(lambda a, e, p=p: minimize_adversarial_loss(a, e, p=p)))
            start = time.perf_counter()
            gap, loss = (np.asarray(x) for x in solve(models, share_of_radius * radius)[2:0:-1])
            bad = ~(gap <= 1e-9)
            total, missed = total + n, missed + int(bad.sum())
            print(
                f"m = {m:3d}  p = {p:3g}  n = {n:5d}  not certified {bad.sum()}  largest gap "
                f"{np.max(gap):.1e}, of the loss {np.max(gap / loss):.1e}  "
                f"({time.perf_counter() - start:.1f} s with compilation)",
                flush=True,
            )
    print(f"certified: {total - missed} of {total}")


if __name__ == "__main__":
    main(*sys.argv[1:])
