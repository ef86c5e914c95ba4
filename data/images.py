"""Decoding one image file to pixels; images of every mode are converted to RGB explicitly."""

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
from data.formats import colour16, dicom, jpeg2000
from data.formats.jpeg import MOST_SCANS, check_segments, jpeg_scans
from data.formats.ranges import AS_16_BITS, Kind, Ranges, as_grey, ends, extremes, kind_of, range_of, unusual

DECODING = "RGB, EXIF orientation applied, squashed to the square, bilinear, JPEG draft at twice the size"
"""Description of how images are decoded; it is recorded with every cache and model."""

OTHERS = {
    "HEIC": (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"),
    "AVIF": (b"avif", b"avis"),
}
"""Formats of phones and browsers that are not supported, with the brands in the first box of such a file."""
JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
"""Possible first bytes of a JPEG XL file."""

SAMPLE = 200
"""Approximate number of files whose size in pixels is read to find the median size."""

FORMATS = (dicom.NAME, "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are accepted, recognised by content. Pillow knows more, but some of those start other programs (for EPS
Ghostscript)."""
MOST_BYTES = 2**28
"""Largest number of bytes of an image file, or of another file that is read as a whole."""
MOST_MEGAPIXELS = 100.0
"""Largest number of megapixels of an image (of a JPEG, after its reduction); an image with transparency takes 24 bytes
per pixel while it is decoded."""
IN_FLIGHT = 32e6
"""Largest number of pixels that all threads of a process decode at once; a larger image is decoded alone."""
SMALL = 4e6
"""Largest number of pixels of a small image, which does not wait for large ones."""

# Memory is allocated in large blocks, because the system gets those back at once; small ones stay with the thread.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]
Image.MAX_IMAGE_PIXELS = None  # our own limits apply, and a JPEG may be larger before it is reduced

logger = logging.getLogger(__name__)


def read_file(path: Path, most: int | None = None) -> bytes:
    """Read the content of a regular file.

    Raises DataError for other kinds of files, because a pipe could block for ever and a device never end, and for files
    of more than `most` bytes.
    """
    with _regular(path) as handle:
        content = handle.read() if most is None else handle.read(most + 1)
    if most is not None and len(content) > most:
        raise DataError(f"{path} has more than {most >> 20} MB")
    return content


def read_text(path: Path) -> str:
    """Read the text (UTF-8) of a file that the user named, which may be a pipe.

    Raises DataError for more than MOST_BYTES bytes, UnicodeDecodeError for text that is not UTF-8, and OSError.
    """
    with path.open("rb") as handle:
        content = handle.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DataError(f"more than {MOST_BYTES >> 20} MB")
    return content.decode("utf-8-sig")


@contextmanager
def opened(source: Path | bytes) -> Iterator[Image.Image]:
    """Open an image of one of FORMATS for decoding. Pillow's errors are passed on to the caller."""
    with (
        io.BytesIO(source) if isinstance(source, bytes) else _regular(source) as handle,
        Image.open(check_segments(handle), formats=FORMATS) as image,
    ):
        yield image


def is_image(path: Path) -> bool:
    """Return whether a file begins as an image of one of FORMATS; it is not decoded."""
    try:
        with opened(path):
            return True
    except Exception:  # on broken bytes Pillow's many readers may raise any error
        return False


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
    """A shared budget of pixels: a thread waits until what it asks for fits."""

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
    """Reserve room for decoding so many pixels; small images have a separate budget and do not wait for large ones."""
    return (_small_room if pixels <= SMALL else _room).taken(pixels)


def decode(
    source: Path | bytes, image_size: int, most: float = MOST_MEGAPIXELS, ranges: Ranges | None = AS_16_BITS
) -> NDArray[np.uint8]:
    """Decode one image file to RGB uint8 [S, S, 3]: resized to a square, whatever its aspect ratio, with bilinear
    interpolation and antialiasing.

    JPEGs are first reduced by their own transform to no less than twice the wanted size (Pillow's draft mode: on
    768-pixel tiles nearly twice as fast, with a mean difference of a quarter of a grey level). `source` is a file or
    its content; `most` is the limit in megapixels; `ranges` are the pixel values that are black and white, for images
    of more than 8 bits, None for the image's own extremes. If there are several frames, the first is used. Raises
    DataError if the file is no image or too large.
    """
    with _in_words(source):
        with opened(source) as image:
            held = _admitted(image, source, image_size, most)
            if image.format != "MPO" and getattr(image, "is_animated", False):
                _say_frames()
        with _room_for(held.room):
            return _decoded(source, image_size, ranges)


def measure_range(source: Path | bytes, most: float = MOST_MEGAPIXELS) -> tuple[Kind, float, float] | None:
    """Return the kind of pixel values in an image file, and the smallest and the largest value; None for an image of
    8 bits, or without a finite value. Raises DataError as `decode` does."""
    with _in_words(source):
        with opened(source) as image:
            kind = kind_of(image)
            if kind is None:
                return None
            held = _admitted(image, source, 1, most)
        with _room_for(held.room), opened(source) as image:
            if kind == "colour":
                with opened(source) as again:
                    values = colour16.combine_bytes(image, again)
                return kind, float(values.min()), float(values.max())
            found = extremes(image)
            return found and (kind, *found)


def has_more_bits(file: Path) -> bool:
    """Return whether an image file has more than 8 bits per value, by its header alone."""
    try:
        with opened(file) as image:
            return kind_of(image) is not None
    except Exception:  # errors of a file are reported when it is decoded
        return False


@contextmanager
def _in_words(source: Path | bytes) -> Iterator[None]:
    """Convert any error while reading an image to a DataError that says what is wrong."""
    try:
        yield
    except Image.DecompressionBombError as error:  # if other code in this process has set Pillow's own limit
        raise DataError("too many pixels for an image (possible decompression bomb)") from error
    except UnidentifiedImageError as error:
        other = _other_format(source)
        raise DataError(f"{other}, which is not read (convert to JPEG or PNG)" if other else "not an image") from error
    except DataError:
        raise
    except OSError as error:
        raise DataError(error.strerror or f"broken image ({error})") from error
    except Exception as error:  # on broken bytes Pillow's many decoders may raise any error
        raise DataError(f"broken image ({error})") from error


def _other_format(source: Path | bytes) -> str | None:
    """Return the name of an unsupported image format, recognised by the file's content; None if it is not known."""
    if isinstance(source, bytes):
        begin = source[:64]
    else:
        with _regular(source) as handle:
            begin = handle.read(64)
    if begin.startswith(JPEG_XL):
        return "JPEG XL"
    if begin[4:8] != b"ftyp":
        return None
    box = begin[8 : min(64, int.from_bytes(begin[:4], "big"))]
    brands = [box[:4], *(box[at : at + 4] for at in range(8, len(box), 4))]  # bytes 4 to 8 are a version
    # AVIF is tried first, because AVIF files name HEIC's general brand too.
    return next((name for name in ("AVIF", "HEIC") if set(brands) & set(OTHERS[name])), None)


def _admitted(image: Image.Image, source: Path | bytes, image_size: int, most: float) -> "_DecodingCost":
    """Return the cost of decoding an image. Raises DataError if it has more than `most` megapixels."""
    colour16.refuse_misread(image)
    width, height = image.size
    held = _held(image, source, image_size)
    if held.pixels > most * 1e6:
        raise DataError(
            f"{width} x {height} pixels{held.why}, more than the {most:g} megapixels that are allowed "
            "(max_megapixels can allow more)"
        )
    return held


@dataclass(frozen=True)
class _DecodingCost:
    """The pixels and the memory that decoding an image takes."""

    pixels: int  # pixels that are held at once
    room: int  # memory, in units of a pixel of four bytes
    why: str = ""  # in words, why `pixels` is not the image's own number


def _held(image: Image.Image, source: Path | bytes, image_size: int) -> _DecodingCost:
    """Compute the cost of decoding an image from its headers. Raises DataError for a broken or malicious file."""
    whole = image.width * image.height
    if image.format == "TIFF":
        wide, high = (image.tag_v2.get(tag, 0) for tag in (322, 323))  # type: ignore[attr-defined]
        if not (isinstance(wide, int) and isinstance(high, int)):  # a text times a number would be a long text
            raise DataError("broken image (the size of its tiles is no number)")
        if (tile := wide * high) > whole:
            return _DecodingCost(tile, tile, f" in tiles of {tile / 1e6:.0f} megapixels")
    if image.format == "JPEG2000":
        grid = jpeg2000.check(read_file(source) if isinstance(source, Path) else source)
        if grid > whole:
            return _DecodingCost(grid, grid, f" on a grid of {grid / 1e6:.0f} megapixels")
    if image.format not in ("JPEG", "MPO"):
        return _DecodingCost(whole, whole)
    _reduce(image, image_size)
    reduced = image.width * image.height
    scans, split = jpeg_scans(read_file(source) if isinstance(source, Path) else source)
    if scans > MOST_SCANS:
        raise DataError(f"a JPEG of {scans} scans, more than the {MOST_SCANS} that are allowed")
    if not split and not image.info.get("progressive"):
        return _DecodingCost(reduced, reduced)
    return _DecodingCost(whole, reduced + 3 * whole // 2)  # libjpeg keeps the coefficients of all scans, two bytes each


def _reduce(image: Image.Image, image_size: int) -> None:
    """Let Pillow's decoder reduce a JPEG to no less than twice the wanted size; other formats stay unchanged."""
    image.draft("RGB", (2 * image_size, 2 * image_size))


def _decoded(source: Path | bytes, image_size: int, ranges: Ranges | None) -> NDArray[np.uint8]:
    """Decode an image; a separate function, so that the memory of the full image is free when it returns."""
    with opened(source) as image:
        _reduce(image, image_size)
        shown = to_8_bits(image, source, ranges)
        ImageOps.exif_transpose(shown, in_place=True)
        return to_square_rgb(shown, image_size, ranges)


def to_8_bits(image: Image.Image, source: Path | bytes, ranges: Ranges | None = None) -> Image.Image:
    """Convert an image with colours of 16 bits, not yet decoded, to 8 bits; return all other images unchanged.

    It is scaled by the range for colours, or by its own extremes without `ranges`. For a range from 0 to 65535 it is
    left to Pillow, unchanged here.
    """
    if kind_of(image) != "colour":
        return image
    found = None if ranges is None else ends("colour", ranges)
    if found == AS_16_BITS["colour"]:
        return image
    with opened(source) as again:
        values = colour16.combine_bytes(image, again)
    return colour16.as_8_bits(values, image, *(found or range_of("colour", float(values.min()), float(values.max()))))


def to_square_rgb(image: Image.Image, image_size: int, ranges: Ranges | None = AS_16_BITS) -> NDArray[np.uint8]:
    """Convert an image of any mode to RGB uint8 [S, S, 3]."""
    return np.asarray(to_rgb(image, ranges).resize((image_size, image_size), Image.Resampling.BILINEAR))


@cache
def _say_frames() -> None:
    logger.warning("some files hold several frames or pages: the first of each is taken")


@cache
def _say_16_bits() -> None:
    logger.warning("some files hold numbers of 16 or 32 bits: 0 is taken for black and 65535 for white")


Size = tuple[int, int]
"""Width and height, in pixels."""


def source_size(files: Sequence[Path]) -> Size | None:
    """Return the median size of some of the files; None if none can be read."""
    found = source_sizes(files, 50)
    return None if found is None else found[0]


def source_sizes(files: Sequence[Path], *percents: float) -> tuple[Size, ...] | None:
    """Return percentiles of width and height, in pixels, of about SAMPLE of the files, evenly spaced; None if none can
    be read."""
    sizes = []
    for file in files[:: max(1, len(files) // SAMPLE)]:
        try:
            with opened(file) as image:  # reads the header alone
                sizes.append(image.size)
        except Exception:  # errors of a file are reported when it is decoded
            continue
    if not sizes:
        return None
    return tuple(
        (width, height) for width, height in np.percentile(sizes, percents, axis=0).round().astype(int).tolist()
    )


def to_rgb(image: Image.Image, ranges: Ranges | None = None) -> Image.Image:
    """Convert an image of any mode to RGB: more than 8 bits are scaled by `ranges`, transparency becomes white.

    Without `ranges` the latter are scaled by the image's own extremes, which suffices for comparing images.
    """
    if kind := kind_of(image):
        if ranges is None:
            found = extremes(image)
            ranges = {kind: range_of(kind, *found) if found else (0.0, 1.0)}
        elif ranges is AS_16_BITS and kind in ranges:
            _say_16_bits()
        return Image.fromarray(as_grey(image, kind, ranges)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def decoding(ranges: Ranges) -> str:
    """Describe how images are decoded, with the ranges for more than 8 bits if they were measured."""
    return f"{DECODING}; black to white: {words}" if (words := unusual(ranges)) else DECODING
