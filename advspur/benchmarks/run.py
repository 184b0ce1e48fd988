"""evaluate_run: one trained run on one benchmark -> records.jsonl, once."""

import json
import time

import jax

from advspur import models
from advspur._checks import check_choice, require
from advspur.records import COMPLETE, Estimate, append_records, read_records, record


def evaluate_run(
    run, benchmark, *, path, weights="raw", models_dir=None, data_dir=None, seed=0, options
):
    """Measure a model and append the records, unless they are there already.

    Args:
      run: what `models.load` takes: a directory that `training.train` or
        scripts/convert_checkpoint.py wrote, a checkpoint file, or a name of the paper's suite.
      benchmark: a key of BENCHMARKS.
      path: the records.jsonl to append to.
      weights: "raw" or "ema".
      models_dir: where the suite's models lie; default $ADVSPUR_MODELS.
      data_dir: where the benchmark's data lie.
      seed: of the benchmark's random numbers.
      options: dict, keyword options of the benchmark's `evaluate` (batch_size among them).
    Returns: how many numbers were measured; 0 where all were recorded before.
    """
    from advspur.benchmarks import BENCHMARKS

    check_choice("benchmark", benchmark, tuple(BENCHMARKS))
    facts = models.model_facts(run, models_dir=models_dir)
    if benchmark == "spurious_shapes":
        require(facts["shapes"], f"{run} was trained on {facts['dataset']}, not on {benchmark}")
        options = options | {"shapes": facts["shapes"]}
    about = models.record_facts(facts, weights) | {"benchmark": benchmark}
    measured_on = {"step": facts["step"], "seed": seed, "checksum": facts["checksum"]}
    marker = json.loads(json.dumps(options | measured_on))  # tuples become lists, as in the file
    if any(
        (r.metric, r.model, r.benchmark, r.options) == (COMPLETE, about["model"], benchmark, marker)
        for r in read_records(path)
    ):
        return 0
    start = time.monotonic()
    measured = BENCHMARKS[benchmark](
        models.load(run, weights=weights, models_dir=models_dir),
        data_dir,
        key=jax.random.key(seed),
        **options,
    )
    count = len(measured)
    end = Estimate(count, count, count, count)
    measured.append(record(COMPLETE, end, options=marker, seconds=time.monotonic() - start))
    append_records(path, [r._replace(**about) for r in measured])
    return count
