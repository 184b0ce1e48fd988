"""What can be measured of a model on a data set, by the columns that the data set has.

Each measure is a function (model, {part: Table}, *, key, batch_size, ...) -> [Record].
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

from advspur.measures.accuracy import accuracy_records, background_gap_records, corruption_records
from advspur.measures.autoattack import autoattack_records, plan_autoattack
from advspur.measures.challenge import challenge_records, plan_challenge
from advspur.measures.groups import group_records
from advspur.measures.regions import Regions, plan_regions, region_records
from advspur.measures.robust import pgd_records, plan_pgd


class Measure(NamedTuple):
    """One kind of measurement.

    Attributes:
      run: (model, parts, *, key, batch_size, cache_dir, progress, **options) -> [Record].
      plan: (parts, **options) -> forward passes over an image; it checks the options.
      options: their defaults.
      lacks: (parts, options) -> what they lack for it, as a text; "" where it can be measured.
      fits: Table -> whether it is measured on this part.
      every_head: whether it is measured with each head, not only with the first.
    """

    run: Callable
    plan: Callable
    options: dict
    lacks: Callable = lambda parts, options: ""
    fits: Callable = lambda table: True
    every_head: bool = False


def _defaults(run):
    """The options of a measure by its signature."""
    running = ("key", "batch_size", "cache_dir", "progress")
    parameters = inspect.signature(run).parameters.values()
    return {
        p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY and p.name not in running
    }


def _one_pass(parts, **options):
    return sum(map(len, parts.values()))


def _has_groups(table):
    return "group" in table.columns


def _lacks_groups(parts, options):
    return "" if any(map(_has_groups, parts.values())) else "a column with an attribute"


def _lacks_masks(parts, options):
    return "" if any(table.has_mask for table in parts.values()) else "masks of the core"


def _lacks_objects(parts, options):
    lacking = _lacks_parts("objects", "backgrounds")(parts, options)
    has_mask = lacking or parts[options["objects"]].has_mask
    return lacking if has_mask else f"masks of {options['objects']}"


def _lacks_cells(parts, options):
    return "" if all("/" in part for part in parts) else "corruptions as parts"


def _lacks_parts(*names):
    """For a measure whose options `names` each name a part."""

    def lacks(parts, options):
        missing = [options[name] for name in names if options[name] not in parts]
        others = " (other parts can be named by its options)" if missing else ""
        return f"the part {' and '.join(missing)}{others}" if missing else ""

    return lacks


MEASURES = {
    "accuracy": Measure(accuracy_records, _one_pass, _defaults(accuracy_records), every_head=True),
    "groups": Measure(
        group_records,
        _one_pass,
        _defaults(group_records),
        _lacks_groups,
        _has_groups,
        every_head=True,
    ),
    "background_gaps": Measure(
        background_gap_records,
        _one_pass,
        _defaults(background_gap_records),
        _lacks_parts("same", "rand"),
    ),
    "corruptions": Measure(
        corruption_records,
        _one_pass,
        _defaults(corruption_records) | {"baseline_errors": {}},
        _lacks_cells,
    ),
    "challenge": Measure(
        challenge_records, plan_challenge, _defaults(challenge_records), _lacks_objects
    ),
    "pgd": Measure(pgd_records, plan_pgd, _defaults(pgd_records)),
    "regions": Measure(
        region_records,
        plan_regions,
        Regions._field_defaults,
        _lacks_masks,
        lambda table: table.has_mask,
    ),
    "autoattack": Measure(
        autoattack_records, plan_autoattack, _defaults(autoattack_records) | {"batch_size": 100}
    ),
}

__all__ = [
    "MEASURES",
    "Measure",
    "Regions",
    "accuracy_records",
    "autoattack_records",
    "background_gap_records",
    "challenge_records",
    "corruption_records",
    "group_records",
    "pgd_records",
    "region_records",
]
