"""records.jsonl: one line per measured number, written by evaluations and read by reports.

Lines are only appended; a later one with the same model, benchmark, metric and options supersedes.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import advspur
from advspur._checks import InputError

COMPLETE = "complete"  # a record of this metric ends each (model, benchmark, measure)
# Options of numbers that others are computed from, or that are of some of the examples only.
DETAILS = frozenset({"level", "epsilon", "severity", "classes", "group", "after"})

COUNTS = frozenset({"autoattack_gradients", "autoattack_forwards", "autoattack_warnings"})


class Record(NamedTuple):
    """One measured number of one model."""

    metric: str
    value: float
    low: float
    high: float
    num_examples: int
    options: dict  # what the number depends on besides model and metric (epsilon, level, ...)
    seconds: float = 0.0  # for all numbers that were measured together
    benchmark: str = ""
    measure: str = ""  # name of MEASURES
    model: str = ""
    arch: str = ""
    train_p: object = None  # a number or "inf"; None: it is not known how the model was trained
    train_epsilon: float | None = None
    recipe: dict = {}  # changes of its training against reliance, besides the attack
    seed: int = 0
    advspur: str = advspur.__version__

    @property
    def identity(self):
        """Return the key under which a later record supersedes this one."""
        # Only the last end mark counts: an earlier one has other options.
        options = "" if self.metric == COMPLETE else json.dumps(self.options, sort_keys=True)
        return self.model, self.benchmark, self.measure, self.metric, options


def record(metric, estimate, *, options, seconds=0.0):
    """Return the Record of an Estimate."""
    return Record(metric, *estimate, options=options, seconds=round(seconds, 3))


def append_records(path, records):
    """Append `records` to the file, in one write."""
    lines = "".join(json.dumps(r._asdict()) + "\n" for r in records)
    path = Path(path)
    if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
        lines = "\n" + lines  # after a half line of an interrupted write
    with path.open("a") as file:
        file.write(lines)


def read_records(path):
    """Return the records of a file that are not superseded; [] if there is no file.

    An end mark supersedes what was measured for its (model, benchmark, measure) before the numbers
    it ends. Half lines of interrupted writes are skipped; other lines that are not records raise
    InputError.
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
                f"{path} line {number} is not a record of advspur {advspur.__version__}: {error}; "
                "choose a different directory with --workdir=DIR"
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
