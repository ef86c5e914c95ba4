"""All settings that decide which groups are found; if one of them changes, groups that were kept are found again.

A change of the method that is visible in no setting must change METHOD.
"""

import hashlib

BEFORE = "f9fd0efa36e5"
"""Version (see `version`) that is assumed for studies that do not record which one found their groups."""

METHOD = "SIFT, Hamming votes, affine registration, fine detail, chance of the folder"
"""The method of finding groups, in words."""

SIDE = 192
"""Size at which keypoints are found: the square root of the image's area, in pixels."""
LAID = 144
"""Size at which images are laid over each other: the square root of the image's area, in pixels."""
MIN_SIDE = 64
"""Shorter side, in pixels, below which an image is not registered, because it has too few keypoints."""
KEYPOINTS, FAINT = 200, 0.005
"""Largest number of keypoints of an image, the strongest ones, and their least contrast (in dark images few reach
OpenCV's own limit, 0.04)."""
RATIO = 0.85
"""Limit of the ratio test: distance to the best match divided by distance to the second best (Lowe 2004 uses 0.8; here
agreement is checked later)."""
NEAR, NEARER = 0.0625 * SIDE, 0.02 * SIDE
"""Distance, in pixels, within which a match agrees with the transform of another match, and with a fitted transform."""
STIFF, MAX_SKEW, FITS = (NEARER / 0.3) ** 2, 0.35, 5
"""Ridge on the skew of a fitted transform (pixels squared), limit of the skew as a share of the scaling, and most
rounds of fitting."""
MAX_GROWTH = 2.0
"""Largest factor by which a copy may be larger or smaller; transforms of absurd scale agree by chance."""
MIN_INLIERS = 7
"""Least number of matches that must agree on one transform; on tissue, chance reaches 6."""
FINE, CELLS = 1.5, 8
"""Size of the detail that is compared (pixels at LAID, and smaller), and number of cells along a side in which it is
compared."""
RELIEF, PLAIN, SAME = (1.0, 4.0), 0.3, 0.5
"""Sizes between which detail counts (pixels at LAID), standard deviation of that (grey levels) below which an image has
none, and least correlation of it in near duplicates: copies in JPEG reach 0.6 at 24 pixels and 0.9 at 128; images of
different small spots on an even ground, whose thumbnails are alike, reach 0.1."""
STRUCTURE, NOISE, FEW_CELLS = 1.5, 0.7, 12
"""Standard deviation (grey levels) from which a cell counts as having structure, standard deviation of a blank wall in
a JPEG, and fewest cells with structure for a comparison."""
MOST_CELLS = 0.2
"""Quantile of the cells' correlations that is taken for that of two images: the worst fifth (glare, dust, a border) is
ignored."""
LIKE, SURE = 0.3, 1.4
"""Likeness from which a pair may be copies, and factor on the required likeness from which a pair is sure and needs no
other pair to confirm it. Both were fixed on three folders: among unrelated photographs of hands the most alike pair
reaches 0.31 and the tenth 0.16; of the copies in LC25000 and of the magnetic tiles, 99 % reach 0.40 and 0.32. In
other folders the likeness that chance reaches, which is measured there, decides."""
RANDOM_PAIRS, TAIL, FEWEST = 5000, 32, 6
"""Number of random pairs from which the likeness that chance reaches is measured, number of the highest ones at which
its tail begins, and least such number in a small folder (with 14 images chance cannot be measured)."""
MARGIN = 2.0
"""Factor by which a pair's likeness must exceed what chance reaches, because images with a common background have
outliers."""
EVERYBODY = 0.2
"""Share of sure pairs among random ones; above it all images look alike, so that this is no sign of copies."""
BLIND = 0.45
"""Likeness reached by chance from which copies cannot be told from other images."""
UNIT = 180.0
"""Scale of descriptor values, which are kept as int8 in units of 1 / UNIT."""

RANKS = ((0, 2), (2, 5), (5, 11), (11, 40))
"""Ranks (from, to) of the nearest neighbours, by colour and by votes, that make each batch of pairs; the last batch is
for images that have found (almost) no copy."""
MAX_HAMMING = 21
"""Largest number of the 64 bits in which two descriptors of a cell may differ and still vote for their images."""
CELL, MAX_CELLS = 200, 128**2
"""Intended number of descriptors per cell, and most cells."""

LONELY = 2
"""Size of a group up to which its images are compared with more candidates."""
RARE = 0.001
"""Share of agreeing pairs in a batch; below it the next batch, whose pairs are less alike, is not tried."""
CROSSING, BRIDGES = 4, 2
"""Number of candidate pairs between two groups from which the groups are compared, and number of these pairs that are
compared."""
ASKED, SEVERAL = 6, 0.1
"""Number of further pairs that are compared before a single pair that is not sure joins two groups, and share of all
compared pairs that must then agree (at least two)."""


def version() -> str:
    """Return the version of the search for groups: a hash that changes with every setting."""
    named = {name: value for name, value in globals().items() if name.isupper()}
    return hashlib.sha256(repr(sorted(named.items())).encode()).hexdigest()[:12]
