"""Atomic writing of files: a file is complete or absent, even after a power failure."""

import hashlib
import json
import os
from pathlib import Path


def write(file: Path, content: bytes) -> None:
    """Write a file atomically: write a temporary file beside it, flush it, rename it, and flush the folder.

    Raises OSError if the content cannot be written; then the file is as it was before.
    """
    part = file.with_name(f"{file.name}.part")
    if part.is_symlink() or (part.exists() and not part.is_file()):
        part.unlink()  # a link would be followed, and a pipe would block
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666), "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError:
        part.unlink(missing_ok=True)  # half a file would only take space on a full disk
        raise
    os.replace(part, file)
    flush(file.parent)


def write_json(file: Path, content: object) -> None:
    """Write a value as indented JSON, atomically as `write` does."""
    write(file, (json.dumps(content, indent=2) + "\n").encode())


def flush(folder: Path) -> None:
    """Flush a folder to disk, so that renames in it survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_hash(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
