"""Solve many budgets for many models: one path for each model, then one lookup per epsilon."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from advspur.theory import smooth
from advspur.theory.certificate import certified
from advspur.theory.linear_model import norm_fraction_spurious
from advspur.theory.paths import path_arrays, piece, segments
from advspur.theory.problem import Problem, matvec
from advspur.theory.solve import finish, in_chunks, line_solution, on_curve

BLOCK = 1 << 17  # problems per call
SMALL = (16, 256)  # models and budgets per call for small grids, which so share one program


def solve_grid(models, epsilons, *, p, progress=None):
    """Return the minimisers of n models, each at e budgets, in blocks of bounded memory.

    All blocks have one shape (one compilation) and are split over the local devices;
    progress.advance receives the size of each. The models' arrays have a leading axis of n.

    Returns: dict of NumPy arrays theta [n, e, m], loss, nfs, gap, converged [n, e].
    """
    n, m = models.theta_opt.shape
    e = len(epsilons)
    devices = jax.local_devices()
    tall, wide = SMALL
    if n * e > BLOCK:
        wide = min(e, BLOCK)
        tall = min(n, max(1, BLOCK // wide))
    by_rows = tall >= len(devices)
    if by_rows:
        tall = -(-tall // len(devices)) * len(devices)
    else:  # few models: every device computes their paths and looks up its share of the budgets
        wide = -(-wide // len(devices)) * len(devices)
    run = _grid_program(p, tuple(devices), by_rows)
    dtype = models.theta_opt.dtype
    out = {"theta": np.zeros((n, e, m), dtype)}
    out |= {name: np.zeros((n, e), dtype) for name in ("loss", "nfs", "gap")}
    blocks = [(top, left) for top in range(0, n, tall) for left in range(0, e, wide)]
    for top, left in blocks:
        height, width = min(tall, n - top), min(wide, e - left)
        rows = np.minimum(np.arange(top, top + tall), n - 1)
        columns = np.minimum(np.arange(left, left + wide), e - 1)
        part = jax.tree.map(lambda x, rows=rows: x[rows], models)
        for name, values in run(part, jnp.asarray(epsilons, dtype)[columns]).items():
            block = out[name][top : top + height, left : left + width]
            block[...] = np.asarray(values)[:height, :width]
        if progress is not None:
            progress.advance(height * width)
    return out | {"converged": np.asarray(certified(out["gap"], out["loss"]))}


@functools.cache
def _grid_program(p, devices, by_rows):
    """Return the jitted (models [n], epsilons [e]) -> dict [n, e], split along n or e."""
    mesh = jax.sharding.Mesh(np.array(devices), ("devices",))
    rows, columns = ("devices", None) if by_rows else (None, "devices")
    specs = {"in_specs": (PartitionSpec(rows), PartitionSpec(columns))}
    specs["out_specs"] = PartitionSpec(rows, columns)
    solve = functools.partial(_solve_block, p=p)
    return jax.jit(jax.shard_map(solve, mesh=mesh, check_vma=False, **specs))


def _solve_block(models, epsilons, *, p):
    """Return dict of [n, e]; a problem is a row (model), a column (budget) and a knot."""
    (n, m), e = models.theta_opt.shape, len(epsilons)
    last = functools.partial(jnp.moveaxis, source=0, destination=-1)
    covariance, target = last(models.covariance), last(models.theta_opt)
    product, variance = matvec(covariance, target), models.noise_std**2
    table = Problem(covariance, target, product, variance, jnp.zeros(n))
    row, column = jnp.repeat(jnp.arange(n), e), jnp.tile(jnp.arange(e), n)
    knots = row
    if p in (1, math.inf):
        paths = jax.vmap(functools.partial(path_arrays, p=p), out_axes=-1)(*models[:3])
        knots = jax.vmap(segments, in_axes=(-1, None))(paths, epsilons).reshape(-1)
        points = paths.theta.swapaxes(0, 1), paths.kappa, paths.norm, paths.variance
    elif p == 2:
        values, vectors = map(last, jnp.linalg.eigh(models.covariance))

    def solve(row, column, knot):
        problem = jax.tree.map(lambda x: x[..., row], table)
        epsilon = epsilons[column]
        problem = problem._replace(epsilon=jnp.where(epsilon > 0, epsilon, 1))
        if p in (1, math.inf):
            upper, lower = ([x[..., k, row] for x in points] for k in (knot, knot + 1))
            line = piece(upper, lower)
            theta, unit, *_ = line_solution(
                problem, line, lambda kappa: lower[0] - (kappa - lower[1]) * line.slope, p
            )
        else:
            data = (problem, values[..., row], vectors[..., row]) if p == 2 else (problem,)
            curve = smooth.spectral_ridge if p == 2 else functools.partial(smooth.general, p=p)
            theta, unit = on_curve(problem, curve(*data), p)
        problem = problem._replace(epsilon=epsilon)
        return finish(problem, theta, unit, True, p)[:3]

    theta, loss, gap = in_chunks(solve, (row, column, knots), m)
    nfs = jax.vmap(norm_fraction_spurious)(theta, models.is_spurious[row])
    grid = {"theta": theta, "loss": loss, "nfs": nfs, "gap": gap}
    return {name: x.reshape(n, e, *x.shape[1:]) for name, x in grid.items()}
