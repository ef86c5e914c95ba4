"""Decode once: a folder of images as one memory-mapped uint8 array, found again by what the folder looks like.

A cache is a folder that appears under its final name only when it is whole (written beside it, flushed, renamed), so it
is never torn: a killed builder leaves a `.part` folder that nobody reads, and of two builders the second finds the
first one's work.
"""

import errno
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import numpy as np
import PIL
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from data import DataError, Progress
from data.images import DECODING, MOST_MEGAPIXELS, decode, read_file

PIXELS, INDEX, LOOK = "images.bin", "index.json", "look"

CHUNK = 512
FEW = 16
SAMPLED = 64
"""Images that are compared with their hash when a cache is opened."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The images of a list of files, in its order, without those that cannot be read."""

    images: NDArray[np.uint8]  # [N, S, S, 3], memory-mapped
    paths: tuple[str, ...]  # [N], relative
    contents: tuple[str, ...]  # [N], SHA-256 of each file
    bad: dict[str, str]  # relative path -> why it cannot be read


class _OtherFilesError(ValueError):
    """The files are not those that were decoded, though they look alike."""


class Index(BaseModel):
    """What is written beside the pixels."""

    image_size: Annotated[int, Field(ge=1)]
    decoding: str = DECODING
    paths: tuple[str, ...]
    contents: tuple[str, ...]
    bad: dict[str, str]
    sample: str | None = None


def decoded(
    root: Path,
    paths: Sequence[str],
    image_size: int,
    cache: Path,
    progress: Progress | None = None,
    most: float = MOST_MEGAPIXELS,
) -> Decoded:
    """The images at `paths` below `root`, from the cache where they are in it, else decoded into it.

    Raises DataError when the disk is full, the cache cannot be written, or the folder changes meanwhile.
    """
    key = _key(root, paths, image_size, most)
    place = cache / f"images-{key[:24]}"
    if place.is_dir():
        try:
            found = _open(place)
            _check_files(place, root, paths, found, progress)
            return found
        except (OSError, ValueError) as error:  # what can be made again is not worth an error
            what = "is of other files" if isinstance(error, _OtherFilesError) else "was altered"
            logger.warning(f"the image cache {place} {what} ({error}); the images are decoded again")
            shutil.rmtree(place, ignore_errors=True)
    try:
        look = _look(root, paths)
        publish(place, lambda part: _write(part, root, paths, image_size, most, look, progress))
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise DataError(f"cannot write the image cache in {cache}: {reason}") from error
    if _key(root, paths, image_size, most) != key:
        shutil.rmtree(place, ignore_errors=True)
        raise DataError(f"{root} changed while its images were read (try again when it rests)")
    return _open(place)


def _key(root: Path, paths: Sequence[str], image_size: int, most: float = MOST_MEGAPIXELS) -> str:
    """Changes with any file's name, size or modification time, and with how images are decoded."""
    limit = "" if most == MOST_MEGAPIXELS else f" up to {most} megapixels"
    total = hashlib.sha256(f"{DECODING} {image_size} Pillow {PIL.__version__}{limit}\n".encode())
    for path in paths:
        try:
            stat = os.stat(root / path)
            total.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
        except OSError as error:
            total.update(f"{path}\0{error.errno}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def _look(root: Path, paths: Sequence[str]) -> str:
    """Changes with any file's inode, and with the time of its last change of any kind, which nobody can set back."""
    total = hashlib.sha256()
    for path in paths:
        with suppress(OSError):
            stat = os.stat(root / path)
            total.update(f"{stat.st_ino} {stat.st_ctime_ns}\n".encode())
    return total.hexdigest()


def _check_files(place: Path, root: Path, paths: Sequence[str], found: Decoded, progress: Progress | None) -> None:
    """Raise an error where files that look alike (name, size, time) have another content than those decoded.

    They are read again only where they look otherwise in what a copy or a swap of names changes too.
    """
    look = _look(root, paths)
    if (place / LOOK).is_file() and read_file(place / LOOK) == look.encode():
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        contents = pool.map(lambda path: hashlib.sha256(read_file(root / path)).hexdigest(), found.paths)
        for number, (path, known, content) in enumerate(zip(found.paths, found.contents, contents, strict=True), 1):
            if content != known:
                raise _OtherFilesError(f"{path} has another content")
            if progress:
                progress("comparing", number, len(found.paths))
    with suppress(OSError):  # a cache that may only be read is as good
        part = place / f"{LOOK}.{os.getpid()}.part"
        part.write_text(look, encoding="utf-8")
        part.replace(place / LOOK)


def _open(place: Path) -> Decoded:
    index = Index.model_validate_json(read_file(place / INDEX))
    size, count = index.image_size, len(index.paths)
    shape = (count, size, size, 3)
    if len(index.contents) != count:
        raise ValueError(f"{place / INDEX} does not fit itself")
    if (place / PIXELS).stat().st_size != count * size * size * 3:
        raise ValueError(f"{place / PIXELS} has not the size that its index says")
    # Copy on write: torch wants writable memory, though nobody writes.
    images = np.memmap(place / PIXELS, np.uint8, "c", shape=shape) if count else np.zeros(shape, np.uint8)
    if index.sample not in (None, _sample(images)):  # caches of earlier versions have none
        raise ValueError("other pixels")
    return Decoded(images=images, paths=index.paths, contents=index.contents, bad=index.bad)


def _sample(images: NDArray[np.uint8]) -> str:
    """A hash of some of the images, evenly spaced: all of them would take seconds at every start."""
    some = images[:: max(1, len(images) // SAMPLED)]
    return hashlib.sha256(np.ascontiguousarray(some).tobytes()).hexdigest()


def publish(place: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `place`, flush it, and move it there in one step.

    Of two at once the first wins: the other one's work is as good. Raises what `write` raises, and OSError; then there
    is nothing.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place)
    part = Path(tempfile.mkdtemp(prefix=f"{place.name}.", suffix=".part", dir=place.parent))
    try:
        write(part)
        _flush(part)
        part.chmod(0o755)
        part.rename(place)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _flush(folder: Path) -> None:
    """So that a power cut after the rename leaves whole files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if len(files) > FEW:  # one flush of everything takes less time than thousands of small ones
        os.sync()
        return
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _sweep(place: Path) -> None:
    """Remove what killed builders of this cache left, unless it is being written just now."""
    for part in place.parent.glob(f"{place.name}.*.part"):
        try:
            newest = max(file.stat().st_mtime for file in [part, *part.iterdir()])
        except OSError:
            continue  # another process removes it too
        if newest < _now(place.parent) - 3600:
            shutil.rmtree(part, ignore_errors=True)


def _now(folder: Path) -> float:
    """The file system's own clock (another machine's, on a network)."""
    with tempfile.TemporaryFile(dir=folder) as handle:
        return os.fstat(handle.fileno()).st_mtime


def _write(
    part: Path, root: Path, paths: Sequence[str], image_size: int, most: float, look: str, progress: Progress | None
) -> None:
    row = 3 * image_size * image_size
    with (part / PIXELS).open("wb") as handle:
        if paths and hasattr(os, "posix_fallocate"):  # a full disk is noticed now, not after an hour
            os.posix_fallocate(handle.fileno(), 0, row * len(paths))
        good, bad = _decode_into(handle, root, paths, image_size, most, progress)
        handle.truncate(row * len(good))
    columns = list(zip(*good, strict=True)) or [(), ()]
    shape = (len(good), image_size, image_size, 3)
    index = Index(
        image_size=image_size,
        paths=columns[0],
        contents=columns[1],
        bad=bad,
        sample=_sample(np.memmap(part / PIXELS, np.uint8, "r", shape=shape)) if good else None,
    )
    (part / INDEX).write_text(index.model_dump_json(), encoding="utf-8")
    (part / LOOK).write_text(look, encoding="utf-8")  # as it was before the files were read


def _decode_into(
    handle: IO[bytes], root: Path, paths: Sequence[str], image_size: int, most: float, progress: Progress | None
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Append the images to `handle`, in order; threads are enough, since Pillow lets go of the interpreter lock.

    Returns ((path, hash of the file) of each image written, path -> why not of the others).
    """
    good: list[tuple[str, str]] = []
    bad: dict[str, str] = {}

    def one(path: str) -> tuple[NDArray[np.uint8], str] | str:
        try:
            content = read_file(root / path)
            return decode(content, image_size, most), hashlib.sha256(content).hexdigest()
        except DataError as error:
            return str(error)
        except OSError as error:
            return error.strerror or str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), CHUNK):  # in chunks: what is decoded waits in memory to be written
            chunk = paths[start : start + CHUNK]
            for path, result in zip(chunk, pool.map(one, chunk), strict=True):
                if isinstance(result, str):
                    bad[path] = result
                else:
                    image, content = result
                    handle.write(image.tobytes())
                    good.append((path, content))
                if progress:
                    progress("decoding", len(good) + len(bad), len(paths))
    return good, bad
