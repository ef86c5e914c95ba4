"""DICOM images for Pillow: the first frame as RGB of 8 bits, by rules that a study can rely on.

Only the tags of pixels, the SOP class and PatientID are read, the last to group by and to look for it in paths: no
name, date or number of a patient gets into a message or a file.

Grey levels: Modality LUT or rescale, then the VOI LUT or the first window, else 8 bits as they are, else the frame's
own range without padding; then MONOCHROME1 is inverted, and padding is black.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from data import DataError
from data.processes import Child

if TYPE_CHECKING:
    from pydicom import Dataset

Pixels = NDArray[np.uint8]

NAME = "DICOM"
"""Name of the format for Pillow."""
INSTALL = "pip install pydicom python-gdcm"
MOST_INFLATED = 2**27
"""Most bytes of a deflated file, inflated."""
DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
NO_PICTURES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "a dose",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "a whole slide (study data tiles cuts it, study predict --out maps it)",
}
"""SOP classes whose pixels are no picture, and what they are."""
TAGS = (
    *("SOPClassUID", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation"),
    *("PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue"),
    "PixelPaddingRangeLimit",
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction"),
    *("WindowCenter", "WindowWidth", "PresentationLUTShape", "BurnedInAnnotation"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
"""Tags that are read."""


def is_dicom(begin: bytes) -> bool:
    """Return whether a file that begins so is DICOM."""
    return begin[128:132] == b"DICM"


class DicomImage(ImageFile.StubImageFile):
    """DICOM file as Pillow opens it: the header at first, the pixels when they are asked for."""

    format = NAME
    format_description = "DICOM"

    def _open(self) -> None:
        assert self.fp is not None
        if not is_dicom(self.fp.read(132)):
            raise SyntaxError("no DICOM file")  # as Pillow wants it: another format may know the file
        with in_words():
            header = read(self.fp, pixels=False)
            self._size = (int(header.Columns), int(header.Rows))
            self.is_animated = int(header.get("NumberOfFrames") or 1) > 1
        self._mode = "RGB"
        self._file: IO[bytes] = self.fp

    def _load(self) -> DicomImage:
        return self

    def load(self) -> Any:
        """Decode the pixels, and become the image of them."""
        with in_words():
            pixels = _decode_safely(self._file)
        image = Image.fromarray(pixels)
        self.__class__ = image.__class__  # type: ignore[assignment]
        self.__dict__ = image.__dict__
        return image.load()


Image.register_open(NAME, DicomImage)


@contextmanager
def in_words() -> Iterator[None]:
    """Turn whatever a broken file raises into a DataError with one line; pydicom's own warnings are not for users."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError("too little memory for this DICOM file") from error
    except ModuleNotFoundError as error:
        raise DataError(f"DICOM is read by {error.name}, which is not installed ({INSTALL})") from error
    except Exception as error:
        words = " ".join(str(error).split())[:120]
        raise DataError(f"broken DICOM ({type(error).__name__}{': ' if words else ''}{words})") from error


def read(file: IO[bytes], *, pixels: bool, tags: Sequence[str] = TAGS) -> Dataset:
    """Read the tags of the pixels, with the pixels if wished. Raises DataError for what is no picture."""
    from pydicom import dcmread

    file.seek(0)
    begin = file.read(4096)
    if DEFLATED.encode() in begin[:1024]:
        _refuse_bomb(file)
    file.seek(0)
    found = dcmread(file, stop_before_pixels=not pixels, specific_tags=list(tags))
    kind = str(found.get("SOPClassUID", ""))
    if kind in NO_PICTURES:
        raise DataError(f"DICOM, but {NO_PICTURES[kind]}")
    if int(found.get("Rows") or 0) < 1 or int(found.get("Columns") or 0) < 1:
        raise DataError("DICOM without a picture")
    if pixels and "PixelData" not in found:
        raise DataError("DICOM without pixels")
    return found


def _refuse_bomb(file: IO[bytes]) -> None:
    """Raise DataError for a deflated file that would grow beyond MOST_INFLATED: a kilobyte may hold a megabyte."""
    from pydicom.filereader import _read_file_meta_info as read_meta
    from pydicom.filereader import read_preamble

    stream = cast(BinaryIO, file)
    stream.seek(0)
    read_preamble(stream, force=False)
    read_meta(stream)
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    content = file.read()
    while content and not inflate.eof:
        total += len(inflate.decompress(content, 1 << 20))
        content = inflate.unconsumed_tail
        if total > MOST_INFLATED:
            raise DataError(f"a deflated DICOM of more than {MOST_INFLATED >> 20} MB")


class UndecodableError(DataError):
    """Error that a package does not decode a picture, since it is damaged or of a kind that it does not know."""


def _packages(found: Dataset) -> list[str]:
    """Return the packages that may decode a file, Pillow first; [""] for a file that needs none, or has none."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = getattr(found.file_meta, "TransferSyntaxUID", None)
    if syntax is None or not syntax.is_encapsulated or str(syntax) == RLE:
        return [""]
    there = get_decoder(syntax).available_plugins
    return [name for name in ("pillow", "gdcm") if name in there] or [""]


def _decode_safely(file: IO[bytes]) -> Pixels:
    """Decode a file, with gdcm in a child process only: a damaged picture ends the process in which gdcm decodes it."""
    found = read(file, pixels=True)
    first, *others = _packages(found)
    if first != "gdcm":
        try:
            return as_rgb(found, *_frame(found, first))
        except UndecodableError:
            if not others:
                raise
    return as_rgb(found, *_frame_apart(file))


_idle: list[Child] = []
"""Child processes that wait for the next file that gdcm has to decode."""
os.register_at_fork(after_in_child=_idle.clear)


def _frame_apart(file: IO[bytes]) -> tuple[NDArray[Any], str]:
    """Do what `_frame` does in a child process, which a damaged file may crash. Raises DataError, also for a crash."""
    try:
        child = _idle.pop()
    except IndexError:
        child = Child()
    file.seek(0)
    child.send(_frame_of, (file.read(),))
    try:
        frame: tuple[NDArray[Any], str] = child.answer()
    finally:
        _idle.append(child)
    return frame


def _frame_of(content: bytes) -> tuple[NDArray[Any], str]:
    with in_words():
        return _frame(read(io.BytesIO(content), pixels=True), "gdcm")


def as_rgb(found: Dataset, array: NDArray[Any], photometric: str) -> Pixels:
    """Convert a frame to RGB [H, W, 3] as its file says. Raises whatever pydicom raises for a broken file."""
    if photometric == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        array = apply_color_lut(array, found)
        if array.dtype.itemsize == 2 and array.max() < 256:  # colours of 8 bits in cells of 16
            array = array.astype(np.uint8)
        return _highest_byte(array)
    if array.ndim == 3:
        return _highest_byte(array)
    return np.repeat(_grey(found, array, photometric)[..., None], 3, axis=2)


def _check_length(found: Dataset, rows: int, columns: int, samples: int, bits: int) -> None:
    """Raise DataError if the pixels are cut off, or if the frame says that it is of another size than the header."""
    syntax = getattr(found.file_meta, "TransferSyntaxUID", None)
    if syntax is None:
        raise DataError("DICOM that does not say how it is encoded (no transfer syntax)")
    if not syntax.is_encapsulated:
        share = 2 / 3 if "422" in str(found.get("PhotometricInterpretation")) else 1
        if len(found.PixelData) * 8 < rows * columns * samples * bits * share:
            raise DataError("DICOM whose pixels are cut off")
    elif str(syntax) != RLE:
        from pydicom.encaps import generate_frames

        frame = next(generate_frames(found.PixelData, number_of_frames=int(found.get("NumberOfFrames") or 1)))
        inside = size_inside(frame)
        if inside is not None and inside != (columns, rows):
            raise DataError(f"DICOM of {columns} x {rows} pixels whose picture is {inside[0]} x {inside[1]}")


def size_inside(frame: bytes) -> tuple[int, int] | None:
    """Return the width and height that a JPEG, JPEG-LS or JPEG 2000 stream names; None if it names none.

    A decoder makes room for that, whatever the DICOM header says.
    """
    if frame[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: the size of the grid, less its offset
        width, height, x, y = (int.from_bytes(frame[at : at + 4], "big") for at in (8, 12, 16, 20))
        return width - x, height - y
    if (at := frame[:4096].find(b"ihdr")) > 0:
        return int.from_bytes(frame[at + 8 : at + 12], "big"), int.from_bytes(frame[at + 4 : at + 8], "big")
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 9 < len(frame):
        marker = frame[at + 1]
        if frame[at] != 0xFF or marker == 0xFF:
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without content
            at += 2
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):  # the frame's header
            return int.from_bytes(frame[at + 7 : at + 9], "big"), int.from_bytes(frame[at + 5 : at + 7], "big")
        elif marker == 0xDA:
            return None
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _frame(found: Dataset, package: str) -> tuple[NDArray[Any], str]:
    """Return the first frame [H, W] or [H, W, 3], colours as RGB, and its photometric interpretation.

    `package`: one of `_packages`. Raises DataError, and whatever pydicom raises for a broken file.
    """
    rows, columns = int(found.Rows), int(found.Columns)
    samples, bits = int(found.get("SamplesPerPixel") or 1), int(found.get("BitsAllocated") or 0)
    if samples not in (1, 3):
        raise DataError(f"DICOM with {samples} samples a pixel")
    _check_length(found, rows, columns, samples, bits)
    from pydicom.pixels.decoders.base import get_decoder

    syntax = found.file_meta.TransferSyntaxUID
    decoder = get_decoder(syntax)
    if not decoder.is_available:
        raise DataError(f"DICOM in {syntax.name}, which needs another package ({INSTALL})")
    options: Any = {"index": 0, "raw": False, "as_rgb": True, "decoding_plugin": package}
    try:
        array, about = decoder.as_array(found, **options)
    except RuntimeError as error:
        words = f"DICOM that cannot be decoded ({syntax.name}, {found.get('BitsStored')} bits)"
        raise UndecodableError(words) from error
    return array, str(about.get("photometric_interpretation", found.get("PhotometricInterpretation", ""))).strip()


def _highest_byte(array: NDArray[Any]) -> Pixels:
    """Convert colours of 16 or 32 bits to 8: their highest byte, as for other images."""
    return np.asarray(array if array.dtype.itemsize == 1 else array >> (8 * array.dtype.itemsize - 8), np.uint8)


def _grey(found: Dataset, array: NDArray[Any], photometric: str) -> Pixels:
    """Convert a grey frame [H, W] to 8 bits by its own rules."""
    from pydicom.pixels.processing import apply_modality_lut

    stated = found.get("PixelPaddingValue")
    padding = np.zeros(array.shape, bool)
    if isinstance(stated, int | float):
        limit = found.get("PixelPaddingRangeLimit")
        low, high = sorted((stated, limit if isinstance(limit, int | float) else stated))
        padding = (array >= low) & (array <= high)
    rescale = first_group(found, "PixelValueTransformationSequence")
    values = np.asarray(apply_modality_lut(array, found if rescale is None else rescale), np.float64)
    shown, low, high = _window(found, array, values, padding)
    grey = np.zeros(shown.shape) if high <= low else np.clip((shown - low) / (high - low), 0, 1) * 255
    if photometric == "MONOCHROME1" or str(found.get("PresentationLUTShape", "")) == "INVERSE":
        grey = 255 - grey
    grey[padding] = 0
    return np.round(grey).astype(np.uint8)


def _window(
    found: Dataset, array: NDArray[Any], values: NDArray[np.float64], padding: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], float, float]:
    """Return what is shown, and the values that are black and white (before any inversion)."""
    from pydicom.pixels.processing import apply_voi

    group = first_group(found, "FrameVOILUTSequence")
    window = found if group is None else group
    if window.get("VOILUTSequence"):
        table = window.VOILUTSequence[0]
        shown = np.asarray(apply_voi(values.astype(np.int64), window), np.float64)
        return shown, 0.0, 2.0 ** int(table.LUTDescriptor[2]) - 1
    if window.get("WindowWidth") is not None and window.get("WindowCenter") is not None:
        middle, width = (_first(window[name].value) for name in ("WindowCenter", "WindowWidth"))
        function = str(window.get("VOILUTFunction") or "LINEAR")
        if width < (1 if function == "LINEAR" else 1e-9):
            raise DataError(f"DICOM with a window of width {width:g}")
        if function == "SIGMOID":
            return 1 / (1 + np.exp(np.clip(-4 * (values - middle) / width, -700, 700))), 0.0, 1.0
        if function == "LINEAR":
            middle, width = middle - 0.5, width - 1
        low, high = middle - width / 2, middle + max(width, 1e-6) / 2
        return np.clip(values, low, high), low, high
    if as_stored(found):
        return values, 0.0, 255.0
    known = values[~padding] if not padding.all() else values
    return values, float(known.min()), float(known.max())


def as_stored(found: Dataset) -> bool:
    """Return whether a file has 8 bits whose values nothing in it changes: they are shown as they are."""
    group = first_group(found, "PixelValueTransformationSequence")
    rescale = found if group is None else group
    bits = {int(found.get(name) or 8) for name in ("BitsAllocated", "BitsStored")}
    slope, intercept = (rescale.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    same = (slope is None or float(slope) == 1) and not intercept and not rescale.get("ModalityLUTSequence")
    return bits == {8} and not found.get("PixelRepresentation") and same


def _first(value: Any) -> float:
    """Return a number, or the first of several."""
    return float(value if isinstance(value, str | int | float) else value[0])


def first_group(found: Dataset, name: str) -> Dataset | None:
    """Return a sequence's first item in the functional groups of an enhanced object's first frame; None without one."""
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        items = found.get(groups)
        inner = items[0].get(name) if items else None
        if inner:
            item: Dataset = inner[0]
            return item
    return None
