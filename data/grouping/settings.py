"""Everything that decides which groups are found; a partition that was kept is found anew when one of these changes.

A change of the method that no setting shows must change METHOD.
"""

import hashlib

BEFORE = "f9fd0efa36e5"
"""The version by which studies found their groups that do not say by which."""

METHOD = "SIFT, Hamming votes, affine registration, fine detail, chance of the folder"

SIDE = 192
"""Keypoints are found at this size: the square root of the image's area, pixels."""
LAID = 144
"""Images are laid over each other at this size."""
MIN_SIDE = 64
"""An image with a shorter side below this (pixels) has too few keypoints to register."""
KEYPOINTS, FAINT = 200, 0.005
"""The strongest keypoints of an image, down to this contrast (dark images have few above OpenCV's own limit, 0.04)."""
RATIO = 0.85
"""Ratio test: distance to the best match over distance to the second best (Lowe 2004 has 0.8; agreement is
checked later)."""
NEAR, NEARER = 0.0625 * SIDE, 0.02 * SIDE
"""A match agrees with another one's transform, and with the fitted transform, within so many pixels."""
STIFF, MAX_SKEW, FITS = (NEARER / 0.3) ** 2, 0.35, 5
"""Ridge (pixels squared) on the skew of a transform, its limit as a share of the scaling, rounds of
fitting."""
MAX_GROWTH = 2.0
"""A copy is at most so much larger or smaller: transforms of absurd scale agree by chance."""
MIN_INLIERS = 7
"""Matches that must agree on one transform at least; 6 is what chance reaches on tissue."""
FINE, CELLS = 1.5, 8
"""Detail smaller than this (pixels at LAID) is compared, in so many cells along a side."""
STRUCTURE, NOISE, FEW_CELLS = 1.5, 0.7, 12
"""Standard deviation (grey levels) from which a cell shows something, that of a blank wall's JPEG, and the fewest cells
that can be compared."""
MOST_CELLS = 0.2
"""Two images are as alike as this quantile of their cells: the least alike fifth is let go (glare, dust, a border)."""
LIKE, SURE = 0.3, 1.4
"""Likeness from which a pair may be copies, and how many times more needs no other pair's word. Fixed on three folders:
of unrelated hands the likest pair reaches 0.31, the tenth 0.16; of the copies in LC25000 and of the magnetic tiles 99 %
reach 0.40 and 0.32. On others it is chance, measured there, that decides."""
RANDOM_PAIRS, TAIL, FEWEST = 5000, 32, 6
"""Random pairs that say what chance reaches, how many of the highest its tail begins with, and with how many at least
in a small folder (14 images have no measured chance)."""
MARGIN = 2.0
"""A pair must reach so many times what chance reaches: images with a common background have outliers."""
EVERYBODY = 0.2
"""Where more than this share of random pairs are surely alike, all images look alike: that is no sign of copies."""
BLIND = 0.45
"""Where chance reaches this, copies cannot be told from others."""
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
RARE = 0.001
"""Where a smaller share of a batch's pairs agree, the next one, of pairs that are less alike, is not tried."""
CROSSING, BRIDGES = 4, 2
"""Two groups with so many candidate pairs between them are compared by so many of these."""
ASKED, SEVERAL = 6, 0.1
"""Further pairs of two groups that are tried before one pair alone, not sure, joins them; the share of all that were
tried which must agree then, two at least."""


def version() -> str:
    """Changes with every setting."""
    named = {name: value for name, value in globals().items() if name.isupper()}
    return hashlib.sha256(repr(sorted(named.items())).encode()).hexdigest()[:12]
