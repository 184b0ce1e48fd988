"""Problems per second against CVXPY with CLARABEL, in pairs: python ... [PAIRS] [PROBLEMS]

Every problem has its own random covariance (Wishart, m = 5), theta_opt and budget. CVXPY gets one
DPP problem for each p whose parameters are set again for every solve (pip install '.[timings]');
advspur solves a batch by vmap, on all cores. Compile time is counted on neither side. Then: the
same theta, the grid of Figure 2, and sweeps that share their paths.
"""

import json
import math
import os
import statistics
import sys
import time

import jax

jax.config.update("jax_num_cpu_devices", os.cpu_count())
jax.config.update("jax_enable_x64", True)

import cvxpy as cp  # noqa: E402
import numpy as np  # noqa: E402
from _problems import M, random_problems, sharded  # noqa: E402

from advspur.theory import minimize_adversarial_loss, sweep_nfs  # noqa: E402

CVXPY_PROBLEMS = 100
C1 = math.sqrt(2 / math.pi)


def cvxpy_solver(p):
    """(root, target, noise_std, epsilon) -> theta, by one parametrised problem."""
    theta, s, n = cp.Variable(M), cp.Variable(), cp.Variable()
    root, shifted = cp.Parameter((M, M)), cp.Parameter(M)
    noise, epsilon = cp.Parameter(nonneg=True), cp.Parameter(nonneg=True)
    residual = cp.hstack([shifted - root @ theta, noise])
    dual = {1.0: "inf", 2.0: 2, math.inf: 1}[p]
    loss = (1 - C1**2) * cp.square(s) + cp.square(C1 * s + n)
    constraints = [cp.norm(residual, 2) <= s, epsilon * cp.norm(theta, dual) <= n]
    problem = cp.Problem(cp.Minimize(loss), constraints)
    assert problem.is_dpp()

    def solve(r, target, noise_std, e):
        root.value, shifted.value, noise.value, epsilon.value = r, r @ target, noise_std, e
        problem.solve(solver=cp.CLARABEL)
        return theta.value

    return solve


def seconds(function, *arguments):
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def main(pairs=5, problems=1 << 18):
    pairs, problems = int(pairs), int(problems)
    rng = np.random.default_rng(0)
    report = {"device": jax.devices()[0].device_kind, "devices": len(jax.devices())}
    report |= {"jax": jax.__version__, "cvxpy": cp.__version__, "pairs": pairs, "n": problems}
    for p in (1.0, 2.0, math.inf):
        models, epsilons = random_problems(rng, problems, p)
        solve = jax.vmap(lambda model, e, p=p: minimize_adversarial_loss(model, e, p=p))
        run, models, epsilons = sharded(solve, models, epsilons)
        found = run(models, epsilons)
        covariance, target, noise, budget = (
            np.asarray(x[:CVXPY_PROBLEMS]) for x in (*models[:3], epsilons)
        )
        roots = np.linalg.cholesky(covariance).transpose(0, 2, 1)
        theirs = cvxpy_solver(p)
        each = list(zip(roots, target, noise, budget, strict=True))
        error = max(np.abs(theirs(*x) - found.theta[i]).max() for i, x in enumerate(each))
        ratios, rates = [], []
        for _ in range(pairs):
            slow = seconds(lambda each=each, f=theirs: [f(*x) for x in each]) / len(each)
            fast = seconds(run, models, epsilons) / problems
            ratios.append(slow / fast)
            rates.append((1 / fast, 1 / slow))
        report[f"p={p:g}"] = {
            "ratio": [statistics.median(ratios), min(ratios), max(ratios)],
            "advspur_per_s": statistics.median(r[0] for r in rates),
            "cvxpy_per_s": statistics.median(r[1] for r in rates),
            "largest_gap": float(found.gap.max()),
            "largest_difference_in_theta": float(error),
        }
        print(json.dumps(report[f"p={p:g}"]), flush=True)

    etas, epsilons = np.linspace(0, 1, 5), np.linspace(0.02, 1, 50)
    norms = (1.0, 2.0, math.inf)
    figure_2 = [lambda p=p: sweep_nfs(etas, epsilons, p=p) for p in norms]
    times = [sum(seconds(f) for f in figure_2) for _ in range(pairs + 1)][1:]
    report["figure_2_ms"] = [1e3 * f(times) for f in (statistics.median, min, max)]

    etas, epsilons = np.linspace(0, 2, 1000), np.linspace(0.001, 2, problems // 500)
    for p in norms:
        times = [seconds(lambda p=p: sweep_nfs(etas, epsilons, p=p)) for _ in range(3)][1:]
        report[f"sweep_per_s_p={p:g}"] = len(etas) * len(epsilons) / min(times)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
