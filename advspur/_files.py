"""Files that are either complete or absent, and checksums."""

import contextlib
import hashlib
import json
from pathlib import Path

import jax
import numpy as np

from advspur._checks import InputError, first_line, require


def write_whole(path, content):
    """Write bytes or text under a temporary name, then rename: the file is complete or absent."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def readable(path):
    """Raise InputError if a file cannot be read: a dead link, a folder named like an image."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def read_json(path):
    """Return the dict in a JSON file that a run wrote."""
    try:
        content = json.loads(Path(path).read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {first_line(error)}") from error
    require(isinstance(content, dict), f"{path} is damaged: it is not a JSON object")
    return content


@contextlib.contextmanager
def locked(directory):
    """Create a directory if needed and lock it for one writer; raise InputError if it is locked.

    The lock ends with its process.
    """
    import fcntl  # not on Windows

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process is writing to {directory}: wait until it has ended, or choose "
                "a different directory with --workdir=DIR"
            ) from error
        yield


def file_checksum(path):
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(tree):
    """Return the SHA-256 of a pytree's leaves: it detects a flipped bit, which orbax does not."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()
