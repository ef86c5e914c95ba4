"""JPEG files: their segments and scans are counted before anything is decoded."""

import os
import re
from typing import IO

from data import DataError

MOST_SCANS = 64
"""Most scans of a JPEG: each goes through the whole image once more. A progressive one usually has ten."""
MOST_SEGMENTS, MOST_BETWEEN = 512, 2**16
"""Most segments of a JPEG before its first scan, and bytes between them: Pillow copies all Exif for each more of it."""

SCAN = b"\xda"
SEGMENTS = bytes([*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(0xDA, 0xF0), 0xFE])
"""What has a length in the header of a JPEG."""


def check_segments(handle: IO[bytes]) -> IO[bytes]:
    """The file, for Pillow to look into. Raises DataError for a JPEG of too many segments, found as Pillow does."""
    if handle.read(3) == b"\xff\xd8\xff":
        segments = between = 0
        handle.seek(2)
        last = kind = b""
        while kind != SCAN and (byte := handle.read(1)):
            if last == b"\xff" and byte in SEGMENTS:
                segments += 1
                handle.seek(max(0, int.from_bytes(handle.read(2), "big") - 2), os.SEEK_CUR)
                last, kind = b"", byte
            else:
                between += 1
                last = byte
            if segments > MOST_SEGMENTS or between > MOST_SEGMENTS + MOST_BETWEEN:
                raise DataError(f"a JPEG with more than {MOST_SEGMENTS} segments, or with much between them")
    handle.seek(0)
    return handle


def jpeg_scans(content: bytes) -> tuple[int, bool]:
    """How many scans a JPEG has, and whether its first one holds only some of the components.

    libjpeg then keeps the coefficients of all of them, as it does of a progressive one. What is broken ends the count.
    """
    place, components, scans, split = 2, 0, 0, False
    while (found := _MARKER.search(content, place)) and found.end() + 2 <= len(content):
        kind, place = found.group()[-1], found.end()
        if kind == 0xD9:  # the end
            break
        length = int.from_bytes(content[place : place + 2], "big")
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) and place + 8 <= len(content):
            components = content[place + 7]
        if kind == 0xDA and place + 3 <= len(content):
            scans += 1
            split = split or (scans == 1 and content[place + 2] < components)
        place += length
    return scans, split


_MARKER = re.compile(rb"\xff+[\x02-\xcf\xd8-\xfe]", re.DOTALL)
"""The beginning of a segment; within a scan FF is followed by 0 or a restart."""
