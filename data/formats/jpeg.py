"""Checks of JPEG files: their segments and scans are counted before anything is decoded."""

import os
import re
from typing import IO

from data import DataError

MOST_SCANS = 64
"""Largest number of scans of a JPEG, since each goes through the whole image; a progressive one usually has ten."""
MOST_SEGMENTS, MOST_BETWEEN = 512, 2**16
"""Largest numbers of segments of a JPEG before its first scan, and of bytes between them; they are limited because
Pillow copies all Exif data again for each further segment of it."""

SCAN = b"\xda"
"""Marker that begins a scan."""
SEGMENTS = bytes([*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(0xDA, 0xF0), 0xFE])
"""Markers in the header of a JPEG that are followed by a length."""


def check_segments(handle: IO[bytes]) -> IO[bytes]:
    """Check a file and return it, rewound, for Pillow to open.

    Raises DataError for a JPEG with too many segments, which are found in the same way as Pillow finds them.
    """
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
    """Count the scans of a JPEG, and return also whether the first scan holds only some of the components.

    In that case libjpeg keeps the coefficients of all scans, as it does for a progressive JPEG. The count ends at the
    first broken segment.
    """
    place, components, scans, split = 2, 0, 0, False
    while (found := _MARKER.search(content, place)) and found.end() + 2 <= len(content):
        kind, place = found.group()[-1], found.end()
        if kind == 0xD9:  # end of image
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
"""Pattern of the beginning of a segment; within a scan, FF is followed by 0 or a restart marker instead."""
