"""Where a slide has tissue: coloured and not white, not a felt-tip pen's line, not black."""

import cv2
import numpy as np
from numpy.typing import NDArray

SMALLEST_OBJECT, SMALLEST_HOLE = 200.0**2, 190.0**2
"""Smallest piece of tissue, and smallest hole in one, in square micrometres (as WSInfer has them)."""
CLOSED_UM = 60.0
"""Width of the gaps that are closed, in micrometres."""
SATURATION = (15, 40)
"""Ends of the range in which the least saturation of tissue is chosen, of 255."""
WHITE = 235
"""Green at and above which nothing is tissue."""


def find_tissue(image: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """Return where an image [H, W, 3] of a slide shows tissue, as a mask [H, W]. `mpp`: micrometres of its pixels."""
    smooth = cv2.medianBlur(image, 5)
    saturation = cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV)[..., 1]
    otsu = cv2.threshold(saturation, 0, 255, cv2.THRESH_OTSU)[0]
    red, green, blue = (smooth[..., channel].astype(np.int16) for channel in range(3))
    # Haematoxylin is blue as well, but has more red than green.
    blue_pen = (blue - red > 40) & (blue > 90) & (green > red - 10)
    pen = blue_pen | ((green - red > 15) & (green - blue > 15)) | (smooth.max(axis=2) < 50)
    coloured = saturation > min(max(SATURATION[0], 0.6 * otsu), SATURATION[1])
    mask = (coloured & (green < WHITE) & ~pen).astype(np.uint8)
    width = max(1, round(CLOSED_UM / mpp)) | 1
    shape = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, shape).astype(np.uint8)
    mask[pen] = 0  # no gap is closed over a pen's line
    mask = _without_small(mask, SMALLEST_OBJECT / mpp**2)
    return np.asarray(_without_small(1 - mask, SMALLEST_HOLE / mpp**2) == 0)


def _without_small(mask: NDArray[np.uint8], area: float) -> NDArray[np.uint8]:
    """Remove the connected pieces of a mask that have fewer than `area` pixels."""
    _, pieces, facts, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    large = facts[:, cv2.CC_STAT_AREA] >= area
    large[0] = False
    return np.asarray(large[pieces], np.uint8)
