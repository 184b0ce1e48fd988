"""Checkpoints: the last few and the best, each with everything that a run needs to resume.

An orbax step directory holds three items: `model` (params, batch_stats, and their averages),
`training` (optimiser, step, key) and `facts` (seconds spent, checksums of the other two). It
appears under its final name only when it is complete; one damaged later is set aside.
"""

import errno
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from advspur._checks import first_line, require
from advspur._devices import gather, is_first_process
from advspur._files import tree_digest
from advspur.training.state import TrainState


class Checkpoints:
    """The `keep_last` latest checkpoints of a run, and the best by a metric of `save`."""

    def __init__(self, directory, *, keep_last, best_metric):
        self.directory = Path(directory).absolute()
        # orbax logs every directory it makes and, with a stack trace, every error that it raises;
        # asyncio logs the tasks that orbax drops after a damaged checkpoint.
        for name in ("absl", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

        def score(metrics):
            return metrics.get(best_metric, -1.0)

        best = policies.BestN(get_metric_fn=score, reverse=False, n=1)
        kept = policies.AnyPreservationPolicy([policies.LatestN(keep_last), best])
        options = ocp.CheckpointManagerOptions(
            preservation_policy=kept, best_fn=score, best_mode="max"
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def steps(self):
        """The steps with a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state, *, seconds, metrics):
        """Begin to write `state`, on the host; all processes call it, the first one writes."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._check_space(state)
        items = _items(state)
        facts = {name: tree_digest(tree) for name, tree in items.items()} | {"seconds": seconds}
        saved = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        args = ocp.args.Composite(facts=ocp.args.JsonSave(facts), **saved)
        self._manager.save(step, args=args, metrics=metrics, force=True)

    def restore(self, template, *, report):
        """(state, seconds) of the latest readable checkpoint; None if there is no checkpoint.

        `template` has the shapes. Damaged checkpoints are moved to ``<run>/damaged_checkpoints``,
        each with a line to `report`.
        """
        steps = self.steps()[::-1]
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        damaged = {}
        for step in steps:
            fault = ""
            try:
                state, seconds = self._restore_step(step, template)
            except MemoryError:
                raise
            except Exception as error:  # orbax and tensorstore raise many kinds for damage
                fault = first_line(error)
            if fault := next(filter(None, gather(fault)), ""):
                damaged[step] = fault
                continue
            for bad, reason in damaged.items():
                report(
                    f"checkpoint {self.directory / str(bad)} is damaged ({reason}); moved to "
                    f"{self._set_aside(bad)}, going back to step {step}"
                )
            # Copied, so that no array shares memory with the reader, which is closed by now.
            return jax.tree.map(jnp.array, state), seconds
        require(
            not steps,
            f"no checkpoint in {self.directory} can be read ({'; '.join(damaged.values())}); to "
            "start again, remove the directory",
        )
        return None

    def _restore_step(self, step, template):
        trees = {n: ocp.args.StandardRestore(tree) for n, tree in _items(template).items()}
        args = ocp.args.Composite(facts=ocp.args.JsonRestore(), **trees)
        items = self._manager.restore(step, args=args)
        for name in trees:
            require(
                tree_digest(items[name]) == items["facts"][name],
                f"the checksum of its {name} does not match",
            )
        model, training = items["model"], items["training"]
        state = TrainState(variables=model["raw"], ema=model["ema"], **training)
        return state, items["facts"]["seconds"]

    def _check_space(self, state):
        """Raise OSError before orbax starts a save that would fill the disk."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"No space left on the disk for a checkpoint of {needed / 2**20:.0f} MiB "
                f"({free / 2**20:.0f} MiB free); earlier ones are kept. Free some space and run "
                "the same command to resume",
                str(self.directory),
            )

    def _set_aside(self, step):
        aside, target = self.directory.parent / "damaged_checkpoints", None
        if is_first_process():
            aside.mkdir(exist_ok=True)
            number = len(list(aside.iterdir()))
            target = str((self.directory / str(step)).rename(aside / f"{step}_{number}"))
        target = gather(target)[0]
        self._manager.reload()
        return target

    def close(self):
        """Wait until all is on disk; raise what went wrong there."""
        self._manager.close()


def _items(state):
    return {
        "model": {"raw": state.variables, "ema": state.ema},
        "training": {"opt_state": state.opt_state, "step": state.step, "key": state.key},
    }
