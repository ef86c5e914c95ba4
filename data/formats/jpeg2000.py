"""Checks of JPEG 2000 files: the parts that their headers declare are counted before anything is decoded.

This is needed because the decoder keeps a record of each tile and of each code block, however small they are.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from data import DataError

MOST_COMPONENTS = 4
"""Largest number of components (channels) of an image."""
MOST_TILES = 4096
"""Largest number of tiles of an image."""
MOST_BLOCKS = 1 << 20
"""Largest number of code blocks of an image; each takes some 250 bytes beside the pixels."""
MOST_PACKETS = 1 << 20
"""Largest number of packets of compressed data; there is one for each layer of each precinct."""
MOST_SEGMENTS = 1 << 16
"""Largest number of segments in the headers of a file; each part of a tile has one or more."""

SOC, SIZ, COD, COC, SOT, SOD, EOC = 0xFF4F, 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9
OTHERS = {0xFF50, *range(0xFF55, 0xFF65), 0xFF74, 0xFF75, 0xFF77, 0xFF78}
"""Markers of other segments that a header may have; unknown ones are refused, because the decoder searches for known
segments inside them."""


@dataclass(frozen=True)
class _Image:
    width: int
    height: int
    components: int


def check(content: bytes) -> int:
    """Count what decoding a JPEG 2000 would keep in memory, and return its number of pixels.

    Raises DataError if it is too much, or the file is broken.
    """
    try:
        return _checked(content)
    except (struct.error, IndexError) as error:
        raise DataError("broken image (its JPEG 2000 header ends too early)") from error


def _checked(content: bytes) -> int:
    start = _codestream(content)
    first, siz = struct.unpack_from(">HH", content, start)
    if (first, siz) != (SOC, SIZ):
        raise DataError("broken image (a JPEG 2000 that does not begin with its size)")
    right, bottom, left, top, wide, high, tiles_left, tiles_top, components = struct.unpack_from(
        ">8IH", content, start + 8
    )
    if not (left < right and top < bottom and wide and high and tiles_left <= left and tiles_top <= top):
        raise DataError("broken image (a JPEG 2000 with an empty image area)")
    if components > MOST_COMPONENTS:
        raise DataError(f"a JPEG 2000 of {components} components, more than the {MOST_COMPONENTS} that are allowed")
    tiles = ceil((right - tiles_left) / wide) * ceil((bottom - tiles_top) / high)
    if tiles > MOST_TILES:
        raise DataError(f"a JPEG 2000 of {tiles} tiles, more than the {MOST_TILES} that are allowed")
    image = _Image(right - left, bottom - top, components)
    styles = list(_styles(content, start + 2))
    layers = max((struct.unpack_from(">H", style, 2)[0] for kind, style in styles if kind == COD), default=1)
    for kind, style in styles:
        # COD is the style of all components, COC of one, whose number takes one byte as there are so few components.
        first, last = (0, 5) if kind == COD else (1, 2)
        blocks, precincts = _counted(image, style[last:], own=bool(style[first] & 1))
        if blocks > MOST_BLOCKS:
            raise DataError(f"a JPEG 2000 of {blocks} code blocks, more than the {MOST_BLOCKS} that are allowed")
        if layers * precincts > MOST_PACKETS:
            raise DataError(
                f"a JPEG 2000 of {layers * precincts} packets, more than the {MOST_PACKETS} that are allowed"
            )
    return image.width * image.height


def _codestream(content: bytes) -> int:
    """Return the position at which the codestream begins: at 0, or in the first box of the type jp2c."""
    if content.startswith(b"\xff\x4f"):
        return 0
    place = 0
    while True:
        length, kind = struct.unpack_from(">I4s", content, place)
        header = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", content, place + 8)
            header = 16
        if kind == b"jp2c":
            return place + header
        if length < header:
            raise DataError("broken image (a box of a JPEG 2000 has no length)")
        place += length


def _styles(content: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    """Yield the segments COD and COC of the main header and of each tile part's header; stop at broken data after the
    headers."""
    part, end, headers, segments = place, 0, True, 0
    while headers or place + 2 <= len(content):
        (kind,) = struct.unpack_from(">H", content, place)
        if kind == EOC or (kind == SOD and not end):
            return
        if kind == SOD:
            if part + end < place + 2:
                raise DataError("broken image (a part of a JPEG 2000 ends before it begins)")
            place, headers = part + end, False
            continue
        if kind not in (SIZ, COD, COC, SOT, *OTHERS):
            if not headers:  # after the end of a part
                return
            raise DataError(f"broken image (the JPEG 2000 header holds {kind:04x})")
        (length,) = struct.unpack_from(">H", content, place + 2)
        if length < 2:
            raise DataError("broken image (a segment of a JPEG 2000 has no length)")
        segment = content[place + 4 : place + 2 + length]
        if kind in (COD, COC):
            yield kind, segment
        if kind == SOT:
            (end,) = struct.unpack_from(">I", segment, 2)
            part, headers = place, True
        place += 2 + length
        segments += 1
        if segments > MOST_SEGMENTS:
            raise DataError(f"a JPEG 2000 of more than {MOST_SEGMENTS} segments")


def _counted(image: _Image, style: bytes, *, own: bool) -> tuple[int, int]:
    """Count the code blocks and precincts of all components, as if the image were one tile.

    `own`: whether the style declares its own sizes of precincts.
    """
    levels, wide, high = style[0], 2 + style[1], 2 + style[2]
    blocks = precincts = 0
    for resolution in range(levels + 1):
        across, down = (style[5 + resolution] & 15, style[5 + resolution] >> 4) if own else (15, 15)
        width, height = (ceil(side / 2 ** (levels - resolution)) for side in (image.width, image.height))
        precincts += ceil(width / 2**across) * ceil(height / 2**down)
        bands = 1
        if resolution:  # three bands of half the size
            bands, width, height, across, down = 3, ceil(width / 2), ceil(height / 2), across - 1, down - 1
        blocks += bands * ceil(width / 2 ** min(wide, max(across, 0))) * ceil(height / 2 ** min(high, max(down, 0)))
    return image.components * blocks, image.components * precincts
