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
from data.formats.ranges import Kind, Ranges, UnknownRangeError, in_words, range_of
from data.images import DECODING, MOST_MEGAPIXELS, decode, decoding, has_more_bits, measured, read_file
from data.processes import usable_cpus

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
    ranges: Ranges  # by which numbers of more than 8 bits became pixels; none where all images have 8


class _EarlierError(ValueError):
    """The pixels were made by a version that measured no ranges, and some files need them."""


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
    ranges: dict[Kind, tuple[float, float]] | None = None  # None: of a version that did not know of any


def decoded(
    root: Path,
    paths: Sequence[str],
    image_size: int,
    cache: Path,
    progress: Progress | None = None,
    most: float = MOST_MEGAPIXELS,
    ranges: Ranges | None = None,
) -> Decoded:
    """The images at `paths` below `root`, from the cache where they are in it, else decoded into it.

    ranges: of numbers of more than 8 bits, where a model has them already; else they are measured over these files.
    Raises DataError when the disk is full, the cache cannot be written, or the folder changes meanwhile.
    """
    work = _Work(root, paths, image_size, cache, most, progress)
    found = work.found_or_made({})
    if found is None or (found.ranges and ranges not in (None, found.ranges)):
        found = work.found_or_made(work.measured() if ranges is None else ranges, own=ranges is not None)
    assert found is not None
    if found.ranges:
        how = "as in the model's training" if ranges else "the least and the most in all of these files"
        logger.warning(f"images of 16 or 32 bits: black to white are {in_words(found.ranges)} ({how})")
    if ranges is None and len(found.images) > 1 and _of_one_colour(found.images):
        colour = tuple(found.images[0, 0, 0].tolist())
        raise DataError(
            f"all images decode to one colour: {colour} in red, green and blue, 0 to 255, in each of {len(found.paths)}"
            " (nothing can be learned from them: look at some, and convert them to 8 bits that show what they hold)"
        )
    return found


def _of_one_colour(images: NDArray[np.uint8]) -> bool:
    return all((image == images[0, 0, 0]).all() for image in images)  # ends at the first that is not


@dataclass(frozen=True)
class _Work:
    """Images that are wanted from the cache."""

    root: Path
    paths: Sequence[str]
    image_size: int
    cache: Path
    most: float
    progress: Progress | None

    def found_or_made(self, ranges: Ranges, *, own: bool = False) -> Decoded | None:
        """From the cache, else decoded into it; None where ranges would be needed, and none are given.

        own: they are a model's, so the pixels lie apart from those of the folder's own ranges.
        """
        key = self._key(ranges if own else {})
        place = self.cache / f"images-{key[:24]}"
        if found := self._found(place):
            return found
        try:
            look = _look(self.root, self.paths)
            publish(place, lambda part: _write(part, self, ranges, look))
        except UnknownRangeError:
            return None
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
            raise DataError(f"cannot write the image cache in {self.cache}: {reason}") from error
        if self._key(ranges if own else {}) != key:
            shutil.rmtree(place, ignore_errors=True)
            raise DataError(f"{self.root} changed while its images were read (try again when it rests)")
        return _open(place)

    def _key(self, ranges: Ranges) -> str:
        return _key(self.root, self.paths, self.image_size, self.most, ranges)

    def _found(self, place: Path) -> Decoded | None:
        if not place.is_dir():
            return None
        try:
            _bring_up_to_date(place, self.root)
            found = _open(place)
            _check_files(place, self.root, self.paths, found, self.progress)
            return found
        except (OSError, ValueError) as error:  # what can be made again is not worth an error
            kinds: dict[type[Exception], str] = {
                _OtherFilesError: "is of other files",
                _EarlierError: "is an earlier version's",
            }
            what = kinds.get(type(error), "was altered")
            logger.warning(f"the image cache {place} {what} ({error}); the images are decoded again")
            shutil.rmtree(place, ignore_errors=True)
            return None

    def measured(self) -> Ranges:
        """The range of each kind of numbers of more than 8 bits, over all files; those that cannot be read say it
        where they are decoded."""

        def one(path: str) -> tuple[Kind, float, float] | None:
            try:
                return measured(self.root / path, self.most)
            except (DataError, OSError):
                return None

        ends: dict[Kind, list[float]] = {}
        with ThreadPoolExecutor(usable_cpus()) as pool:
            for number, found in enumerate(pool.map(one, self.paths), 1):
                if found:
                    ends.setdefault(found[0], []).extend(found[1:])
                if self.progress:
                    self.progress("measuring the range", number, len(self.paths))
        if not ends:
            raise DataError(f"{self.root} changed while its images were read (try again when it rests)")
        return {kind: range_of(kind, min(some), max(some)) for kind, some in ends.items()}


def _bring_up_to_date(place: Path, root: Path) -> None:
    """Note in an earlier version's cache that no file needs a range; raise _EarlierError where one does."""
    index = Index.model_validate_json(read_file(place / INDEX))
    if index.ranges is not None:
        return
    with ThreadPoolExecutor(usable_cpus()) as pool:
        if any(pool.map(lambda path: has_more_bits(root / path), index.paths)):
            raise _EarlierError("it took 0 to 65535 for granted where files have 16 bits")
    with suppress(OSError):  # a cache that may only be read is as good
        part = place / f"{INDEX}.{os.getpid()}.part"
        part.write_text(index.model_copy(update={"ranges": {}}).model_dump_json(), encoding="utf-8")
        part.replace(place / INDEX)


def _key(
    root: Path, paths: Sequence[str], image_size: int, most: float = MOST_MEGAPIXELS, ranges: Ranges | None = None
) -> str:
    """Changes with any file's name, size or modification time, and with how images are decoded."""
    limit = "" if most == MOST_MEGAPIXELS else f" up to {most} megapixels"
    limit += f" with {sorted(ranges.items())}" if ranges else ""
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
    with ThreadPoolExecutor(usable_cpus()) as pool:
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
    return Decoded(images=images, paths=index.paths, contents=index.contents, bad=index.bad, ranges=index.ranges or {})


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


def _write(part: Path, work: _Work, ranges: Ranges, look: str) -> None:
    size, paths = work.image_size, work.paths
    row = 3 * size * size
    with (part / PIXELS).open("wb") as handle:
        if paths and hasattr(os, "posix_fallocate"):  # a full disk is noticed now, not after an hour
            os.posix_fallocate(handle.fileno(), 0, row * len(paths))
        good, bad = _decode_into(handle, work, ranges)
        handle.truncate(row * len(good))
    columns = list(zip(*good, strict=True)) or [(), ()]
    shape = (len(good), size, size, 3)
    index = Index(
        image_size=size,
        decoding=decoding(ranges),
        paths=columns[0],
        contents=columns[1],
        bad=bad,
        sample=_sample(np.memmap(part / PIXELS, np.uint8, "r", shape=shape)) if good else None,
        ranges=dict(ranges),
    )
    (part / INDEX).write_text(index.model_dump_json(), encoding="utf-8")
    (part / LOOK).write_text(look, encoding="utf-8")  # as it was before the files were read


def _decode_into(handle: IO[bytes], work: _Work, ranges: Ranges) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Append the images to `handle`, in order; threads are enough, since Pillow lets go of the interpreter lock.

    Returns ((path, hash of the file) of each image written, path -> why not of the others). Raises UnknownRangeError
    at the first file of more than 8 bits where no ranges are given.
    """
    good: list[tuple[str, str]] = []
    bad: dict[str, str] = {}

    def one(path: str) -> tuple[NDArray[np.uint8], str] | str:
        try:
            content = read_file(work.root / path)
            return decode(content, work.image_size, work.most, ranges), hashlib.sha256(content).hexdigest()
        except DataError as error:
            if isinstance(error, UnknownRangeError) and not ranges:
                raise
            return str(error)
        except OSError as error:
            return error.strerror or str(error)

    with ThreadPoolExecutor(usable_cpus()) as pool:
        for start in range(0, len(work.paths), CHUNK):  # in chunks: what is decoded waits in memory to be written
            chunk = work.paths[start : start + CHUNK]
            for path, result in zip(chunk, pool.map(one, chunk), strict=True):
                if isinstance(result, str):
                    bad[path] = result
                else:
                    image, content = result
                    handle.write(image.tobytes())
                    good.append((path, content))
                if work.progress:
                    work.progress("decoding", len(good) + len(bad), len(work.paths))
    return good, bad
