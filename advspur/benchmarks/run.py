"""evaluate_models: models x benchmarks -> records.jsonl, going on where an earlier call stopped."""

import time

import jax

from advspur._checks import check_choice
from advspur.records import Estimate, append_records, read_records, record

COMPLETE = "complete"  # a record of this metric ends each (model, benchmark)


def is_recorded(path, model, benchmark, options):
    """Whether `records.jsonl` holds all numbers of this model, benchmark and options."""
    wanted = _marker_options(options)
    return any(
        r.metric == COMPLETE and (r.model, r.benchmark, r.options) == (model, benchmark, wanted)
        for r in read_records(path)
    )


def evaluate_model(classifier, facts, benchmark, *, path, data_dir=None, batch_size, seed, options):
    """Run one benchmark on one model and append its records to `path`.

    Args:
      classifier: the model.
      facts: dict with model (its name), arch, train_p, train_epsilon, seed.
      benchmark: a key of BENCHMARKS.
      path: records.jsonl.
      data_dir: of the benchmark's data.
      batch_size: images a forward pass.
      seed: of the benchmark's random numbers.
      options: keyword options of the benchmark's `evaluate`.
    Returns: the records.
    """
    from advspur.benchmarks import BENCHMARKS

    check_choice("benchmark", benchmark, tuple(BENCHMARKS))
    start = time.monotonic()
    measured = BENCHMARKS[benchmark](
        classifier, data_dir, batch_size=batch_size, key=jax.random.key(seed), **options
    )
    measured.append(
        record(
            COMPLETE,
            Estimate(len(measured), len(measured), len(measured), len(measured)),
            options=_marker_options(options),
            seconds=time.monotonic() - start,
        )
    )
    records = [r._replace(benchmark=benchmark, **facts) for r in measured]
    append_records(path, records)
    return records


def _marker_options(options):
    return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
