"""Claim: the quickstart's suite is trained faster by one program than one model after another.

    python scripts/timings/suite_together.py [--pairs=1]

Trains the seven models of configs/quickstart.py both ways, alternately, each time in a process of
its own, in an empty directory with an empty compile cache: one after another as training.train does
(one CPU device with all threads), and together as training.train_suite does (one CPU device a
core). A line of JSON: the ratio of the seconds, which hold everything but the start of Python.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]


def measure(together):
    """Seconds that the suite takes in this process."""
    import jax
    from _cli import num_cores
    from reproduce import suite_configs

    from advspur._progress import Progress
    from advspur.training import train, train_suite
    from configs import quickstart

    if together:
        jax.config.update("jax_num_cpu_devices", num_cores())
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        start = time.perf_counter()
        jax.config.update("jax_compilation_cache_dir", f"{folder}/xla_cache")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        runs = {Path(folder, n): c for n, c in suite_configs(quickstart.get_config())}
        progress = Progress(1, "", stream=nowhere)
        if together:
            assert not train_suite(runs, progress=dict.fromkeys(runs, progress))
        else:
            for path, config in runs.items():
                train(config, path)
        return time.perf_counter() - start


def seconds(how):
    """Those of a process of its own."""
    command = [sys.executable, __file__, f"--measure={how}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main(pairs):
    from advspur.training.run_dir import environment

    times = [(seconds("alone"), seconds("together")) for _ in range(pairs)]
    ratios = [a / b for a, b in times]
    figures = {
        "claim": "seven models of the quickstart, one after another / together",
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "seconds": [[round(t, 1) for t in pair] for pair in times],
        "pairs": pairs,
    }
    print(json.dumps(figures | environment()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--measure", choices=("alone", "together"), help="used by itself")
    given = parser.parse_args()
    if given.measure:
        print(measure(given.measure == "together"))
    else:
        main(given.pairs)
