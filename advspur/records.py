"""records.jsonl: one line per measured number, the file through which the parts talk.

Append-only. A later line of the same model, benchmark, metric and options supersedes.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import advspur
from advspur._checks import InputError

COMPLETE = "complete"  # a record of this metric ends each (model, benchmark, measure)
# Options that a number has which goes into others, or is of a part of the examples.
DETAILS = frozenset({"level", "epsilon", "severity", "classes", "group", "after"})

COUNTS = frozenset({"autoattack_gradients", "autoattack_forwards", "autoattack_warnings"})


class Record(NamedTuple):
    """One measured number of one model."""

    metric: str
    value: float
    low: float
    high: float
    num_examples: int
    options: dict  # what the number depends on beside model and metric (epsilon, level, ...)
    seconds: float = 0.0  # spent on the group of numbers it was measured with
    benchmark: str = ""
    measure: str = ""  # the group of numbers that it was measured with
    model: str = ""
    arch: str = ""
    train_p: object = None  # a number or "inf"; None: nobody said how the model was trained
    train_epsilon: float | None = None
    recipe: dict = {}  # what its training did for its reliance beside the attack; {}: nothing
    seed: int = 0
    advspur: str = advspur.__version__

    @property
    def identity(self):
        """What makes a later record supersede this one."""
        # Of the end marks only the last counts: other options were measured since the one before.
        options = "" if self.metric == COMPLETE else json.dumps(self.options, sort_keys=True)
        return self.model, self.benchmark, self.measure, self.metric, options


def record(metric, estimate, *, options, seconds=0.0):
    """The Record of an Estimate."""
    return Record(metric, *estimate, options=options, seconds=round(seconds, 3))


def append_records(path, records):
    """Add `records` to the file, as one write."""
    lines = "".join(json.dumps(r._asdict()) + "\n" for r in records)
    path = Path(path)
    if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
        lines = "\n" + lines  # the last write was cut short: leave its half line alone
    with path.open("a") as file:
        file.write(lines)


def read_records(path):
    """The records of a file, superseded ones left out; [] where there is no file.

    An end mark supersedes what was measured of its (model, benchmark, measure) before the numbers
    it ends. Lines that a kill cut short are skipped; a line that is not a record is an error.
    """
    path = Path(path)
    if not path.exists():
        return []
    groups = {}
    for number, line in enumerate(path.read_text(errors="replace").split("\n"), start=1):
        try:
            entry = Record(**json.loads(line)) if line else None
        except json.JSONDecodeError:
            entry = None
        except TypeError as error:
            raise InputError(
                f"{path} line {number} is no record of advspur {advspur.__version__}: {error}; "
                "evaluate into another directory with --workdir=DIR"
            ) from error
        if entry is None:
            continue
        group = groups.setdefault((entry.model, entry.benchmark, entry.measure), {})
        group.pop(entry.identity, None)
        if entry.metric == COMPLETE and not math.isnan(entry.value):
            for identity in list(group)[: max(len(group) - int(entry.value), 0)]:
                del group[identity]
        group[entry.identity] = entry
    return [entry for group in groups.values() for entry in group.values()]
