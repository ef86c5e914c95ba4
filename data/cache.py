"""The image cache: a folder of images is decoded once into a memory-mapped uint8 array.

The key of a cache is made from the names, sizes and times of the files. A cache is a folder that gets its final name
only when it is complete (it is written beside that name, flushed and renamed), so it is never half-written. A killed
process leaves a `.part` folder that is never read, and if two processes write the same cache, the first one to finish
wins.
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
from shlex import quote
from typing import IO, Annotated

import numpy as np
import PIL
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from data import DataError, Progress
from data.formats.ranges import AS_16_BITS, Kind, Ranges, UnknownRangeError, in_words, range_of
from data.images import DECODING, MOST_MEGAPIXELS, decode, decoding, has_more_bits, measure_range, read_file
from data.processes import usable_cpus

PIXELS, INDEX, LOOK = "images.bin", "index.json", "look"
"""Files of a cache: the pixels, their `Index`, and the hash that `_look` makes of the image files."""

CHUNK = 512
"""Number of images that are decoded before they are written."""
FEW = 16
"""Largest number of files that are flushed one by one."""
SAMPLED = 64
"""Approximate number of images whose pixels are checked by a hash when a cache is opened."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DecodedImages:
    """The decoded images of a list of files, in the order of the list, without those that cannot be read."""

    images: NDArray[np.uint8]  # [N, S, S, 3], memory-mapped
    paths: tuple[str, ...]  # [N], relative
    contents: tuple[str, ...]  # [N], SHA-256 of each file
    bad: dict[str, str]  # relative path -> why it cannot be read
    ranges: Ranges  # pixel values that are black and white, beyond 8 bits; empty if all images have 8 bits


class _EarlierError(ValueError):
    """The pixels were made by a version that did not measure ranges, but some of the files need them."""


class _OtherFilesError(ValueError):
    """The files are not the ones that were decoded, although name, size and time are the same."""


class Index(BaseModel):
    """The index of a cache, which is written beside the pixels."""

    image_size: Annotated[int, Field(ge=1)]
    decoding: str = DECODING
    paths: tuple[str, ...]
    contents: tuple[str, ...]
    bad: dict[str, str]
    sample: str | None = None
    ranges: dict[Kind, tuple[float, float]] | None = None  # None: written by a version that did not know ranges


def load_decoded(
    root: Path,
    paths: Sequence[str],
    image_size: int,
    cache: Path,
    progress: Progress | None = None,
    most: float = MOST_MEGAPIXELS,
    ranges: Ranges | None = None,
    *,
    again: bool = False,
) -> DecodedImages:
    """Return the images at `paths` below `root` from the cache; decode them into it first if they are not there.

    `again`: try files that could not be read again, in case the reason was a passing one.
    `most`: limit of an image, in megapixels. `ranges`: a model's own, for images of more than 8 bits; otherwise they
    are measured over these files. Raises DataError if the disk is full, the cache cannot be
    written, the folder changes meanwhile, or, without given ranges, all images have one and the same colour.
    """
    work = _Work(root, paths, image_size, cache, most, progress, again)
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
    return all((image == images[0, 0, 0]).all() for image in images)  # stops at the first other image


MOST_TRIED_AGAIN = 20
"""Most unreadable files that are tried again when their cache is used."""


@dataclass(frozen=True)
class _Work:
    """A request for images from the cache."""

    root: Path
    paths: Sequence[str]
    image_size: int
    cache: Path
    most: float
    progress: Progress | None
    again: bool

    def found_or_made(self, ranges: Ranges, *, own: bool = False) -> DecodedImages | None:
        """Return the images from the cache; decode them into it first if they are not there.

        Returns None if some files need ranges and none are given. `own`: the ranges are those of a model, so the pixels
        are cached apart from those made with the folder's own ranges.
        """
        key = self._key(ranges if own else {})
        place = self.cache / f"images-{key[:24]}"
        found = self._found(place)
        if found and self.again and self._can_be_read(found):  # a study that goes on without these files keeps its own
            place = place.with_name(f"{place.name}-again")
            found = self._found(place)
            if found and self._can_be_read(found):
                shutil.rmtree(place, ignore_errors=True)
                found = None
            if not found:
                logger.warning("a file that could not be read before can be read by now; the images are decoded again")
        if found:
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
            raise DataError(f"{self.root} changed while its images were read (try again when nothing writes to it)")
        return _open(place)

    def _key(self, ranges: Ranges) -> str:
        return _key(self.root, self.paths, self.image_size, self.most, ranges)

    def _found(self, place: Path) -> DecodedImages | None:
        if not place.is_dir():
            return None
        try:
            _bring_up_to_date(place, self.root)
            found = _open(place)
            _check_files(place, self.root, self.paths, found, self.progress)
            return found
        except (OSError, ValueError) as error:  # a cache can be made again, so this is no error
            kinds: dict[type[Exception], str] = {
                _OtherFilesError: "is of other files",
                _EarlierError: "is an earlier version's",
            }
            what = kinds.get(type(error), "was altered")
            logger.warning(f"the image cache {place} {what} ({error}); the images are decoded again")
            shutil.rmtree(place, ignore_errors=True)
            if place.exists():
                raise DataError(f"{place} cannot be replaced (remove it: rm -r {quote(str(place))})") from error
            return None

    def _can_be_read(self, found: DecodedImages) -> bool:
        """Return whether a file that could not be read then can be read now, among the first of them.

        Its content is the same: a library was installed, a permission given, or the machine was short of something.
        """
        for path in list(found.bad)[:MOST_TRIED_AGAIN]:
            with suppress(DataError):
                decode(self.root / path, self.image_size, self.most, found.ranges or AS_16_BITS)
                return True
        return False

    def measured(self) -> Ranges:
        """Measure the range of each kind of pixel values of more than 8 bits over all files.

        Files that cannot be read are ignored here; they are reported when they are decoded.
        """

        def one(path: str) -> tuple[Kind, float, float] | None:
            try:
                return measure_range(self.root / path, self.most)
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
            raise DataError(f"{self.root} changed while its images were read (try again when nothing writes to it)")
        return {kind: range_of(kind, min(some), max(some)) for kind, some in ends.items()}


def _bring_up_to_date(place: Path, root: Path) -> None:
    """Record in a cache of an earlier version that no file needs a range. Raises _EarlierError if one does."""
    index = Index.model_validate_json(read_file(place / INDEX))
    if index.ranges is not None:
        return
    with ThreadPoolExecutor(usable_cpus()) as pool:
        if any(pool.map(lambda path: has_more_bits(root / path), index.paths)):
            raise _EarlierError("it assumed a range of 0 to 65535 for files of 16 bits")
    with suppress(OSError):  # a read-only cache can be used too
        part = place / f"{INDEX}.{os.getpid()}.part"
        part.write_text(index.model_copy(update={"ranges": {}}).model_dump_json(), encoding="utf-8")
        part.replace(place / INDEX)


def _key(
    root: Path, paths: Sequence[str], image_size: int, most: float = MOST_MEGAPIXELS, ranges: Ranges | None = None
) -> str:
    """Return the key of a cache: it changes with any file's name, size or modification time, and with how images are
    decoded."""
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
    """Hash the inode numbers of the files and their times of change (ctime), which no program can set back."""
    total = hashlib.sha256()
    for path in paths:
        with suppress(OSError):
            stat = os.stat(root / path)
            total.update(f"{stat.st_ino} {stat.st_ctime_ns}\n".encode())
    return total.hexdigest()


def _check_files(
    place: Path, root: Path, paths: Sequence[str], found: DecodedImages, progress: Progress | None
) -> None:
    """Raise _OtherFilesError if a file with the same name, size and time has another content than when it was decoded.

    The files are read again only if `_look` differs, which also changes when files are copied or swapped.
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
    with suppress(OSError):  # a read-only cache can be used too
        part = place / f"{LOOK}.{os.getpid()}.part"
        part.write_text(look, encoding="utf-8")
        part.replace(place / LOOK)


def _open(place: Path) -> DecodedImages:
    index = Index.model_validate_json(read_file(place / INDEX))
    size, count = index.image_size, len(index.paths)
    shape = (count, size, size, 3)
    if len(index.contents) != count:
        raise ValueError(f"{place / INDEX} does not fit itself")
    if (place / PIXELS).stat().st_size != count * size * size * 3:
        raise ValueError(f"{place / PIXELS} has not the size that its index says")
    # Copy-on-write mode, because torch wants writable memory, although nothing is written.
    images = np.memmap(place / PIXELS, np.uint8, "c", shape=shape) if count else np.zeros(shape, np.uint8)
    if index.sample not in (None, _sample(images)):  # caches of earlier versions have none
        raise ValueError("other pixels")
    return DecodedImages(
        images=images, paths=index.paths, contents=index.contents, bad=index.bad, ranges=index.ranges or {}
    )


def _sample(images: NDArray[np.uint8]) -> str:
    """Hash some of the images, evenly spaced, because hashing all would take seconds at every start."""
    some = images[:: max(1, len(images) // SAMPLED)]
    return hashlib.sha256(np.ascontiguousarray(some).tobytes()).hexdigest()


def publish(place: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder beside `place`, flush it, and rename it to `place` in one step.

    If two processes do this at once, the first one wins, since their results are the same. Raises what `write` raises,
    and OSError; then nothing is left behind.
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
    """Flush the files of a folder to disk, so that they are complete even if the power fails after the rename."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if len(files) > FEW:  # flushing everything once is faster than thousands of small flushes
        os.sync()
        return
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _sweep(place: Path) -> None:
    """Remove what killed processes left of this cache, unless it was written to in the last hour."""
    for part in place.parent.glob(f"{place.name}.*.part"):
        try:
            newest = max(file.stat().st_mtime for file in [part, *part.iterdir()])
        except OSError:
            continue  # another process removes it too
        if newest < _now(place.parent) - 3600:
            shutil.rmtree(part, ignore_errors=True)


def _now(folder: Path) -> float:
    """Return the time by the clock of the file system (on a network that is another machine's)."""
    with tempfile.TemporaryFile(dir=folder) as handle:
        return os.fstat(handle.fileno()).st_mtime


def _write(part: Path, work: _Work, ranges: Ranges, look: str) -> None:
    size, paths = work.image_size, work.paths
    row = 3 * size * size
    with (part / PIXELS).open("wb") as handle:
        if paths and hasattr(os, "posix_fallocate"):  # to notice a full disk now and not after an hour
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
    """Decode the images and append them to `handle`, in order; threads do it, as Pillow releases the interpreter lock.

    Returns the pairs (path, hash of the file) of the images written, and for the other files path -> why not. Raises
    UnknownRangeError at the first file of more than 8 bits if no ranges are given.
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
        for start in range(0, len(work.paths), CHUNK):  # in chunks, because decoded images wait in memory to be written
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
