"""What can be measured of a model on a data set, by the columns that the data set has.

Each measure is a function (model, {part: Table}, *, key, batch_size, cache_dir, progress, its
options) -> [Record]; `running` are batch_size, cache_dir and progress, as of `predict.outcomes`.
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


def _one_pass(parts, **options):
    return sum(map(len, parts.values()))


class Measure(NamedTuple):
    """One kind of measurement."""

    run: Callable
    plan: Callable = _one_pass  # (parts, **options) -> forward passes, in images; it checks options
    fits: Callable = lambda table: True  # Table -> whether it is measured on this part
    needs: str = ""  # what no part has where none fits
    named: tuple = ()  # options that each name a part that must be there
    masked: bool = False  # whether the first of those needs masks
    of_cells: bool = False  # whether all parts must be cells "<corruption>/<severity>"
    every_head: bool = False  # whether it is measured with each head, not only with the first
    asked_heads: bool = False  # whether with the first and with the group-robust ones
    given: dict | None = None  # {option: its default} where the signature of `run` has none

    @property
    def options(self):
        """{option: its default}."""
        known, running = inspect.signature(self.run).parameters, ("key", "cache_dir", "progress")
        return self.given or {
            name: p.default
            for name, p in known.items()
            if p.default is not p.empty and name not in running
        }

    def lacks(self, parts, options):
        """What the parts lack for it, as a text; "" where it can be measured."""
        named = [options[name] for name in self.named]
        missing = [part for part in named if part not in parts]
        if missing:
            return f"the part {' and '.join(missing)} (other parts can be named by its options)"
        if self.masked and not parts[named[0]].has_mask:
            return f"masks of {named[0]}"
        if self.of_cells and not all("/" in part for part in parts):
            return "corruptions as parts"
        return "" if any(map(self.fits, parts.values())) else self.needs


MEASURES = {
    "accuracy": Measure(accuracy_records, every_head=True),
    "groups": Measure(
        group_records,
        fits=lambda table: "group" in table.columns,
        needs="a column with an attribute",
        every_head=True,
    ),
    "background_gaps": Measure(background_gap_records, named=("same", "rand"), every_head=True),
    "corruptions": Measure(corruption_records, of_cells=True),
    "challenge": Measure(
        challenge_records, plan_challenge, named=("objects", "backgrounds"), masked=True
    ),
    "pgd": Measure(pgd_records, plan_pgd, asked_heads=True),
    "regions": Measure(
        region_records,
        plan_regions,
        fits=lambda table: table.has_mask,
        needs="masks of the core",
        given=Regions._field_defaults,
    ),
    "autoattack": Measure(autoattack_records, plan_autoattack),
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
