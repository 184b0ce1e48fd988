"""The progress of an attack on disk: a kill loses the batch in progress, and no more.

The folder holds ledger.jsonl: first the arguments of the call, then a line for each batch. It holds
outcomes only, no images.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from advspur._checks import require


class Ledger:
    """Entries of batches by (epsilon number, attack, batch number); in memory without a folder.

    Args:
      directory: the folder, or None.
      asked: dict of what determines the results; another call's folder is refused.
    """

    def __init__(self, directory, asked):
        self.entries, self._path = {}, None
        if directory is not None:
            self._open(Path(directory), asked)

    def _open(self, directory, asked):
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "ledger.jsonl"
        lines = path.read_text(errors="replace").split("\n") if path.exists() else []
        found = [entry for entry in map(_parse, lines) if entry is not None]
        if found:
            before = found[0]
            other = [k for k in asked if before.get(k) != asked[k]]
            require(
                not other,
                f"{directory} holds another attack: "
                + ", ".join(f"{k} {before.get(k)}, now {asked[k]}" for k in other)
                + "; name another directory, or delete it",
            )
            self.entries = {tuple(entry["of"]): entry for entry in found[1:] if "of" in entry}
        self._path = path
        if lines and lines[-1]:
            self._append("\n")  # the last write was cut short: leave its half line alone
        if not found:
            self._append(json.dumps(asked) + "\n")

    def find(self, of, rows):
        """The entry of the batch `rows`, or None where it is not done."""
        entry = self.entries.get(of)
        fits = entry is None or entry.get("rows") == rows.tolist()
        require(fits, f"{self._path} does not fit: delete its folder")
        return entry

    def add(self, of, entry):
        """Note a batch as done."""
        self.entries[of] = entry
        if self._path is not None:
            self._append(json.dumps({"of": list(of)} | entry) + "\n")

    def _append(self, text):
        with self._path.open("a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def checksum(*arrays):
    """Of the arrays' bytes: the first 16 digits of SHA-256."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # bfloat16 as well
    return digest.hexdigest()[:16]


def _parse(line):
    try:
        found = json.loads(line) if line else None
    except json.JSONDecodeError:  # cut short by a kill
        return None
    return found if isinstance(found, dict) else None
