"""One image file as pixels: every mode becomes RGB on purpose."""

import io
import logging
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from data import DataError
from data.formats import jpeg2000
from data.formats.jpeg import MOST_SCANS, check_segments, jpeg_scans

DECODING = "RGB, EXIF orientation applied, squashed to the square, bilinear, JPEG draft at twice the size"
"""How images are decoded; recorded with every cache and model."""

SAMPLE = 200

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is taken for an image, by content. Pillow knows more, some of which start other programs (EPS: Ghostscript)."""
MOST_BYTES = 2**28
"""Most bytes of an image file, or of another file that is read whole."""
MOST_MEGAPIXELS = 100.0
"""Most megapixels of an image, once a JPEG is reduced; one with transparency takes 24 bytes a pixel on its way."""
IN_FLIGHT = 32e6
"""Pixels that all threads of a process decode at once; a larger image has its turn alone."""
SMALL = 4e6
"""Pixels of an image that waits for no large one."""

# Blocks that the system takes back at once: smaller ones stay with the thread that asked for them.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]
Image.MAX_IMAGE_PIXELS = None  # the limits are ours, and a JPEG may be larger before it is reduced

logger = logging.getLogger(__name__)


def read_file(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file. Raises DataError for any other: a pipe would wait for ever, a device never end.

    Likewise for one of more than `most` bytes.
    """
    with _regular(path) as handle:
        content = handle.read() if most is None else handle.read(most + 1)
    if most is not None and len(content) > most:
        raise DataError(f"{path} has more than {most >> 20} MB")
    return content


def read_text(path: Path) -> str:
    """The content of a file that the user named: a pipe too, but no more than MOST_BYTES. Raises DataError, OSError."""
    with path.open("rb") as handle:
        content = handle.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DataError(f"more than {MOST_BYTES >> 20} MB")
    return content.decode("utf-8-sig")


@contextmanager
def opened(source: Path | bytes) -> Iterator[Image.Image]:
    """An image of one of FORMATS about to be decoded; Pillow's errors are the caller's."""
    with (
        io.BytesIO(source) if isinstance(source, bytes) else _regular(source) as handle,
        Image.open(check_segments(handle), formats=FORMATS) as image,
    ):
        yield image


def _regular(path: Path) -> IO[bytes]:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        there = os.fstat(handle)
        if not stat.S_ISREG(there.st_mode):
            raise DataError("not a regular file (a pipe, a device, or a link to one)")
        if there.st_size > MOST_BYTES:
            raise DataError(
                f"{there.st_size / 2**20:.0f} MB, more than an image may have ({MOST_BYTES / 2**20:.0f} MB)"
            )
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


class _Room:
    """Lets threads in as long as what they ask for fits the budget."""

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + count <= self._budget)
            self._used += count
        try:
            yield
        finally:
            with self._changed:
                self._used -= count
                self._changed.notify_all()


_room, _small_room = _Room(IN_FLIGHT), _Room(IN_FLIGHT / 2)


def _room_for(pixels: int) -> AbstractContextManager[None]:
    """Small images have a room of their own: they do not wait until a large one is done."""
    return (_small_room if pixels <= SMALL else _room).taken(pixels)


def decode(source: Path | bytes, image_size: int, most: float = MOST_MEGAPIXELS) -> NDArray[np.uint8]:
    """One image file as RGB uint8 [S, S, 3]: squashed to the square, bilinear with antialiasing.

    JPEGs are first reduced by their own transform to no less than twice the size wanted (Pillow's draft mode: on
    768-pixel tiles nearly twice as fast, mean difference a quarter of a grey level). `source`: a file, or its content;
    `most`: megapixels. Of several frames the first is taken. Raises DataError when it is no image, or too large a one.
    """
    try:
        with opened(source) as image:
            width, height = image.size
            held = _held(image, source, image_size)
            if held.pixels > most * 1e6:
                raise DataError(
                    f"{width} x {height} pixels{held.why}, more than the {most:g} megapixels that are allowed"
                )
            if image.format != "MPO" and getattr(image, "is_animated", False):
                _say_frames()
        with _room_for(held.room):
            return _decoded(source, image_size)
    except Image.DecompressionBombError as error:  # where another program in this process has set Pillow's own limit
        raise DataError("too many pixels for an image (possible decompression bomb)") from error
    except UnidentifiedImageError as error:
        raise DataError("not an image") from error
    except DataError:
        raise
    except OSError as error:
        raise DataError(error.strerror or f"broken image ({error})") from error
    except Exception as error:  # Pillow's many decoders raise whatever broken bytes make them raise
        raise DataError(f"broken image ({error})") from error


@dataclass(frozen=True)
class _Held:
    """What decoding an image takes."""

    pixels: int  # that are held at once
    room: int  # memory, as so many pixels of four bytes
    why: str = ""  # these are others than the image's own, in words


def _held(image: Image.Image, source: Path | bytes, image_size: int) -> _Held:
    """What an image takes that is about to be decoded. Raises DataError where it is too much."""
    whole = image.width * image.height
    if image.format == "TIFF":
        wide, high = (image.tag_v2.get(tag, 0) for tag in (322, 323))  # type: ignore[attr-defined]
        if not (isinstance(wide, int) and isinstance(high, int)):  # a text, so many times, has any length
            raise DataError("broken image (the size of its tiles is no number)")
        if (tile := wide * high) > whole:
            return _Held(tile, tile, f" in tiles of {tile / 1e6:.0f} megapixels")
    if image.format == "JPEG2000":
        grid = jpeg2000.check(read_file(source) if isinstance(source, Path) else source)
        if grid > whole:
            return _Held(grid, grid, f" on a grid of {grid / 1e6:.0f} megapixels")
    if image.format not in ("JPEG", "MPO"):
        return _Held(whole, whole)
    _reduce(image, image_size)
    reduced = image.width * image.height
    scans, split = jpeg_scans(read_file(source) if isinstance(source, Path) else source)
    if scans > MOST_SCANS:
        raise DataError(f"a JPEG of {scans} scans, more than the {MOST_SCANS} that are allowed")
    if not split and not image.info.get("progressive"):
        return _Held(reduced, reduced)
    return _Held(whole, reduced + 3 * whole // 2)  # all coefficients of all scans, two bytes each


def _reduce(image: Image.Image, image_size: int) -> None:
    """Let a JPEG reduce itself."""
    image.draft("RGB", (2 * image_size, 2 * image_size))


def _decoded(source: Path | bytes, image_size: int) -> NDArray[np.uint8]:
    """In a function of its own: when it returns, the whole image is gone."""
    with opened(source) as image:
        _reduce(image, image_size)
        ImageOps.exif_transpose(image, in_place=True)
        return squashed(image, image_size)


def squashed(image: Image.Image, image_size: int) -> NDArray[np.uint8]:
    """An image of any mode as RGB uint8 [S, S, 3]."""
    return np.asarray(to_rgb(image).resize((image_size, image_size), Image.Resampling.BILINEAR))


@cache
def _say_frames() -> None:
    logger.warning("some files hold several frames or pages: the first of each is taken")


def source_size(files: Sequence[Path]) -> tuple[int, int] | None:
    """Median width and height, in pixels, of up to SAMPLE of the files, evenly spaced; None where none can be read."""
    sizes = []
    for file in files[:: max(1, len(files) // SAMPLE)]:
        try:
            with opened(file) as image:  # reads the header alone
                sizes.append(image.size)
        except Exception:  # what is wrong with a file is said where it is decoded
            continue
    if not sizes:
        return None
    width, height = np.median(sizes, axis=0).round().astype(int).tolist()
    return width, height


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB from any mode: 16-bit greys scaled to 8 bits, transparency laid on white."""
    if image.mode == "F":
        raise DataError("floating-point pixels, whose range is not known (convert the image to 8 or 16 bits)")
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.clip(np.asarray(image, np.int64) // 257, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
