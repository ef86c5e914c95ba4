"""Files that are there whole or not at all, also when the power fails."""

import hashlib
import json
import os
from pathlib import Path


def write(file: Path, content: bytes) -> None:
    """Write beside, flush, rename, and make the rename last. Raises OSError; then the file is as it was."""
    part = file.with_name(f"{file.name}.part")
    if part.is_symlink() or (part.exists() and not part.is_file()):
        part.unlink()  # somebody's link, which would be followed, or a pipe, which would wait
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666), "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError:
        part.unlink(missing_ok=True)  # half a file on a full disk is in everybody's way
        raise
    os.replace(part, file)
    flush(file.parent)


def write_json(file: Path, content: object) -> None:
    """The same with JSON that people can read."""
    write(file, (json.dumps(content, indent=2) + "\n").encode())


def flush(folder: Path) -> None:
    """Make renames in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_hash(file: Path) -> str:
    """SHA-256 of a file's content."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
