"""Everything that decides which groups are found; a partition that was kept is found anew when one of these changes.

A change of the method that no setting shows must change METHOD.
"""

import hashlib

METHOD = "SIFT, Hamming votes, affine registration, components"

SIDE = 192
"""Images are compared at this size: the square root of their area, pixels."""
MIN_SIDE = 64
"""An image with a shorter side below this (pixels) has too few keypoints to register."""
KEYPOINTS = 200
MIN_INLIERS = 7
"""Matches agreeing on one transform. Fixed on the colon classes of LC25000: from 4 to 10 it changes nothing
there; 6 is what chance reaches."""
RATIO = 0.85
"""Ratio test: distance to the best match over distance to the second best (Lowe 2004 has 0.8; agreement is
checked later)."""
NEAR, NEARER = 0.0625 * SIDE, 0.02 * SIDE
"""A match agrees with another one's transform, and with the fitted transform, within so many pixels."""
STIFF, MAX_SKEW, FITS = (NEARER / 0.3) ** 2, 0.35, 5
"""Ridge (pixels squared) on the skew of a transform, its limit as a share of the scaling, rounds of
fitting."""
UNIT = 180.0
"""Descriptor values are kept as int8, in units of 1 / UNIT."""

RANKS = ((0, 2), (2, 5), (5, 11), (11, 40))
"""Neighbours by each descriptor that make a batch of pairs; the last batch is for images that found (almost)
nobody."""
MAX_HAMMING = 21
"""Descriptors of one cell vote for their images when at most so many of their 64 bits differ."""
CELL, MAX_CELLS = 200, 128**2
"""Descriptors aimed at in a cell; the most cells."""

LONELY = 2
"""Images in a group of at most this size are compared with more candidates."""
CROSSING, BRIDGES = 4, 2
"""Two groups with so many candidate pairs between them are compared by so many of these."""


def version() -> str:
    """Changes with every setting."""
    named = {name: value for name, value in globals().items() if name.isupper()}
    return hashlib.sha256(repr(sorted(named.items())).encode()).hexdigest()[:12]
