"""Measures of a model on a data set; its columns decide which of them apply.

A measure is a function (model, {part: Table}, *, key, batch_size, cache_dir, progress, its options)
-> [Record]; `running` stands for batch_size, cache_dir and progress, see `predict.outcomes`.
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
    plan: Callable = _one_pass  # (parts, **options) -> single-image forward passes; checks options
    fits: Callable = lambda table: True  # Table -> whether the part is measured
    needs: str = ""  # what a part must have to fit
    part_options: tuple = ()  # options whose values are names of parts that must exist
    needs_masks: bool = False  # whether the first of those parts needs masks
    of_cells: bool = False  # whether all parts must be cells "<corruption>/<severity>"
    every_head: bool = False  # measured with every head, not only with the first
    selected_heads: bool = False  # measured with the first and the group-robust heads
    defaults: dict | None = None  # {option: default}, if not in the signature of `run`

    @property
    def options(self):
        """Return {option: its default}."""
        parameters = inspect.signature(self.run).parameters
        return self.defaults or {
            name: p.default
            for name, p in parameters.items()
            if p.default is not p.empty and name not in ("key", "cache_dir", "progress")
        }

    def lacks(self, parts, options):
        """Return what the parts lack for this measure, "" if nothing."""
        names = [options[name] for name in self.part_options]
        missing = [part for part in names if part not in parts]
        if missing:
            return f"the part {' and '.join(missing)} (other parts can be named by its options)"
        if self.needs_masks and not parts[names[0]].has_mask:
            return f"masks of {names[0]}"
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
    "background_gaps": Measure(
        background_gap_records, part_options=("same", "rand"), every_head=True
    ),
    "corruptions": Measure(corruption_records, of_cells=True),
    "challenge": Measure(
        challenge_records, plan_challenge, part_options=("objects", "backgrounds"), needs_masks=True
    ),
    "pgd": Measure(pgd_records, plan_pgd, selected_heads=True),
    "regions": Measure(
        region_records,
        plan_regions,
        fits=lambda table: table.has_mask,
        needs="masks of the core",
        defaults=Regions._field_defaults,
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
