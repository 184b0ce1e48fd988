"""Whole files: written so that they are whole or not there, and told apart by their bytes."""

import hashlib
from pathlib import Path


def write_whole(path, content):
    """Write bytes or text under a temporary name, then rename: the file is whole or not there."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_checksum(path):
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
