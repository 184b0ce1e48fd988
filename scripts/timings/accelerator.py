"""What to measure first on a GPU or TPU, one part at a time; accelerator.sh runs them all.

    python scripts/timings/accelerator.py PART [--toy] [--peak_tflops=T]

prints a line of JSON as soon as a part is known. --toy takes sizes that a CPU does in seconds. The
peak is that of one device in the precision used; for the cards in PEAKS it is known.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if "cpu" not in (os.environ.get("JAX_PLATFORMS") or "cpu").split(","):
    os.environ["JAX_PLATFORMS"] += ",cpu"  # which others are compared with

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts" / "timings"), str(ROOT / "scripts"), str(ROOT)]

from _paired import seconds_of  # noqa: E402
from _steps import NETWORKS, batch_of, made_step, repeated, step_flops  # noqa: E402

from advspur.training.run_dir import environment as versions  # noqa: E402

# Dense TFLOP/s as their maker gives them; float32 products are made in TF32.
PEAKS = {
    "A100": {"float32": 156, "bfloat16": 312},
    "H100": {"float32": 494.5, "bfloat16": 989},
    "H200": {"float32": 494.5, "bfloat16": 989},
}
TOY = ("resnet_small", "small", 8, 16, 1, 8)
SECONDS = 20  # that a step is repeated for
# Of ||ours - float64|| / ||float64||, of logits and of the gradient by the images: the gradient of
# a ReLU jumps, so that rounding before it is not small after it.
EXACT, USUAL = {"logits": 1e-4, "gradient": 1e-2}, {"logits": 2e-2, "gradient": 0.2}


def environment(args):
    """Versions, devices and the driver."""
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit")
    found = versions() | {"platform": device.platform, "memory_limit_mb": _mb(memory)}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm"]
    try:
        told = subprocess.run([*query, "--format=csv,noheader"], capture_output=True, text=True)
        found["nvidia_smi"] = told.stdout.strip()
    except FileNotFoundError:
        found["nvidia_smi"] = None
    return found


def correctness(args):
    """Logits and gradients of a network on this device and on the CPU in float64."""
    from advspur.models import build_network

    arch, stem, classes, size, *_ = TOY if args.toy else NETWORKS["resnet50"]
    images, labels = batch_of(classes, size, 4)
    images = images / np.float32(255) - np.float32(0.5)
    network = build_network(arch, classes, stem=stem)
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        variables = jax.device_get(jax.jit(network.init)(jax.random.key(0), images[:1]))

    @jax.jit
    def found(variables, images):
        dtype = images.dtype

        def loss(images):
            logits, _ = network.clone(dtype=dtype).apply(variables, images)
            log_p = jax.nn.log_softmax(logits)
            return -jnp.sum(jnp.take_along_axis(log_p, labels[:, None], axis=1)), logits

        gradient, logits = jax.grad(loss, has_aux=True)(images)
        return {"logits": logits, "gradient": gradient}

    with jax.enable_x64(True), jax.default_device(cpu):
        exact = jax.tree.map(np.float64, (variables, images))
        exact = jax.device_get(found(*exact))
    result = {"network": arch, "images": len(images)}
    for name, precision, most in (("highest", "highest", EXACT), ("default", None, USUAL)):
        with jax.default_matmul_precision(precision):
            ours = jax.device_get(found(variables, images))
        errors = {
            what: float(np.linalg.norm(ours[what] - exact[what]) / np.linalg.norm(exact[what]))
            for what in exact
        }
        result[name] = errors | {"ok": all(errors[what] <= most[what] for what in errors)}
    return result | {"ok": result["highest"]["ok"] and result["default"]["ok"]}


def step_float32(args):
    """A training step of ResNet-50 with PGD-3: seconds, images per second, share of the peak."""
    return _step(args, "float32")


def step_bfloat16(args):
    """The same with the network in bfloat16."""
    return _step(args, "bfloat16")


def _step(args, dtype):
    arch, stem, classes, size, num_steps, batch_size = TOY if args.toy else NETWORKS["resnet50"]
    batch_size = args.batch_size or batch_size
    images, labels = batch_of(classes, size, batch_size)
    step, given, _ = made_step(arch, stem, classes, num_steps, images, labels, dtype=dtype)
    run = repeated(step, *given)
    first = seconds_of(run)
    times, start = [seconds_of(run)], time.perf_counter()
    while len(times) < 100 and time.perf_counter() - start < (0.2 if args.toy else SECONDS):
        times.append(seconds_of(run))
    seconds = statistics.median(times)
    rate = step_flops(arch, stem, classes, num_steps, images) / seconds / 1e12
    peak = _peak(args, dtype)
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "network": arch,
        "dtype": dtype,
        "pgd_steps": num_steps,
        "batch": batch_size,
        "first_s": round(first, 2),
        "step_s": [round(f(times), 5) for f in (statistics.median, min, max)],
        "steps": len(times),
        "images_per_s": round(batch_size / seconds, 1),
        "tflop_per_s": round(rate, 3),
        "share_of_peak": round(rate / peak, 3) if peak else None,
        "peak_memory_mb": _mb(stats.get("peak_bytes_in_use")),
    }


def autoattack(args):
    """AutoAttack's standard version on robust images of a ResNet-18."""
    from autoattack_throughput import measure

    toy = {"arch": TOY[0], "size": TOY[3], "attacks": ("apgd-ce", "square")}
    call = toy if args.toy else {}
    return measure(4 if args.toy else 1000, peak_tflops=_peak(args, "float32"), **call)


def theory(args):
    """Certified minimisers and cells of a sweep per second, in float64."""
    from _problems import M, random_problems, sharded

    from advspur.theory import minimize_adversarial_loss, sweep_nfs

    n, rows = (64, 10) if args.toy else (1 << 16, 1000)
    n *= jax.device_count()
    result = {"problems": n, "features": M, "cells": rows * rows}
    grid = np.linspace(0, 2, rows), np.linspace(0.001, 2, rows)
    with jax.enable_x64(True):
        for p in (2.0,) if args.toy else (1.0, 2.0, np.inf):
            models, epsilons = random_problems(np.random.default_rng(0), n, p)
            solve = jax.vmap(lambda model, e, p=p: minimize_adversarial_loss(model, e, p=p))
            run, models, epsilons = sharded(solve, models, epsilons)
            certified = float(jnp.mean(run(models, epsilons).converged))
            solved = functools.partial(run, models, epsilons)
            seconds = min(seconds_of(lambda s=solved: jax.block_until_ready(s())) for _ in range(3))
            sweep_nfs(*grid, p=p)
            sweep = seconds_of(functools.partial(sweep_nfs, *grid, p=p))
            result[f"p={p:g}"] = {
                "problems_per_s": round(n / seconds),
                "certified": certified,
                "cells_per_s": round(rows * rows / sweep),
            }
    of_norms = [found for name, found in result.items() if name.startswith("p=")]
    return result | {"ok": all(found["certified"] == 1 for found in of_norms)}


def suite(args):
    """The quickstart's models trained by one device at once, and one after another."""
    from reproduce import suite_configs

    from advspur._progress import Progress
    from advspur.training import train_suite
    from configs import quickstart

    config = quickstart.get_config()
    if args.toy:
        _, _, _, config.shapes.image_size, _, config.batch_size = TOY
        config.num_steps = 2
        config.shapes.num_train, config.shapes.num_validation = 64, 16
        config.suite.linf_epsilons = ()
        config.suite.l2_epsilons = (0.25,)
    names = dict(suite_configs(config))
    result = {"models": len(names), "steps": config.num_steps}
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        jax.config.update("jax_compilation_cache_dir", f"{folder}/cache")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for what, per_device in (("together", len(names)), ("one_by_one", 1)):
            times = []
            for turn in range(2):  # the second finds its programs compiled
                runs = {Path(folder, what, str(turn), n): c for n, c in names.items()}
                progress = dict.fromkeys(runs, Progress(1, "", stream=nowhere))
                call = {"per_device": per_device, "progress": progress}
                times.append(seconds_of(lambda runs=runs, call=call: train_suite(runs, **call)))
            result[what] = {"first_s": round(times[0], 1), "s": round(times[1], 1)}
    result["one_by_one / together"] = round(result["one_by_one"]["s"] / result["together"]["s"], 2)
    return result


def memory(args):
    """What the compiler sets aside for a step in bfloat16 at two batch sizes; no step is made."""
    arch, stem, classes, size, num_steps, batch_size = TOY if args.toy else NETWORKS["resnet50"]
    call, result = {"dtype": "bfloat16"}, {"network": arch}
    for n in (batch_size, 4 * batch_size):
        step, given, _ = made_step(
            arch, stem, classes, num_steps, *batch_of(classes, size, n), **call
        )
        used = step.lower(*given).compile().memory_analysis()
        result[f"batch_{n}_mb"] = _mb(used.temp_size_in_bytes)
    return result | call


ALL = (
    environment, correctness, step_float32, step_bfloat16, autoattack, theory, memory, suite,
)  # fmt: skip
PARTS = {part.__name__: part for part in ALL}


def _peak(args, dtype):
    """TFLOP/s, or None where it is not known."""
    name = jax.devices()[0].device_kind
    known = (peak[dtype] for card, peak in PEAKS.items() if card in name)
    peak = args.peak_tflops or next(known, None)
    return peak and peak * jax.local_device_count()


def _mb(size):
    return None if size is None else round(size / 2**20, 1)


def main(args):
    start = time.perf_counter()
    found = PARTS[args.part](args)
    about = {"part": args.part, "toy": args.toy, "device": jax.devices()[0].device_kind}
    print(json.dumps(about | found | {"s": round(time.perf_counter() - start, 1)}), flush=True)
    sys.exit(0 if found.get("ok", True) else 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("--toy", action="store_true", help="sizes for a CPU")
    parser.add_argument("--batch_size", type=int, help="of the training step")
    parser.add_argument("--peak_tflops", type=float, help="of the device, in the precision used")
    main(parser.parse_args())
