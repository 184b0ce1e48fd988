"""evaluate_run: one trained run on one benchmark -> records.jsonl, once."""

import json
import time

import jax

from advspur import models
from advspur._checks import check_choice, require
from advspur.records import COMPLETE, Estimate, append_records, read_records, record


def evaluate_run(run, benchmark, *, path, weights="raw", data_dir=None, seed=0, options):
    """Measure a trained model and append the records, unless they are there already.

    Args:
      run: directory that `training.train` wrote.
      benchmark: a key of BENCHMARKS.
      path: the records.jsonl to append to.
      weights: "raw" or "ema".
      data_dir: where the benchmark's data lie.
      seed: of the benchmark's random numbers.
      options: dict, keyword options of the benchmark's `evaluate` (batch_size among them).
    Returns: how many numbers were measured; 0 where all were recorded before.
    """
    from advspur.benchmarks import BENCHMARKS

    check_choice("benchmark", benchmark, tuple(BENCHMARKS))
    facts, step = models.run_facts(run), models.latest_step(run)
    if benchmark == "spurious_shapes":
        require(facts["shapes"], f"{run} was trained on {facts['dataset']}, not on {benchmark}")
        options = options | {"shapes": facts["shapes"]}
    about = models.record_facts(run, weights) | {"benchmark": benchmark}
    measured_on = {"step": step, "seed": seed, "checksum": models.run_checksum(run)}
    marker = json.loads(json.dumps(options | measured_on))  # tuples become lists, as in the file
    if any(
        (r.metric, r.model, r.benchmark, r.options) == (COMPLETE, about["model"], benchmark, marker)
        for r in read_records(path)
    ):
        return 0
    start = time.monotonic()
    measured = BENCHMARKS[benchmark](
        models.load(run, weights=weights), data_dir, key=jax.random.key(seed), **options
    )
    count = len(measured)
    end = Estimate(count, count, count, count)
    measured.append(record(COMPLETE, end, options=marker, seconds=time.monotonic() - start))
    append_records(path, [r._replace(**about) for r in measured])
    return count
