"""One image file as pixels: every mode becomes RGB on purpose."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from data import DataError

DECODING = "RGB, EXIF orientation applied, squashed to the square, bilinear, JPEG draft at twice the size"
"""How images are decoded; recorded with every cache and model."""

SAMPLE = 200

# Pillow warns above 89 megapixels and refuses above twice that; the refusal is enough.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(source: Path | bytes, image_size: int) -> NDArray[np.uint8]:
    """One image file as RGB uint8 [S, S, 3]: squashed to the square, bilinear with antialiasing.

    JPEGs are first reduced by their own transform to no less than twice the size wanted (Pillow's draft mode: on
    768-pixel tiles nearly twice as fast, mean difference a quarter of a grey level). `source`: a file, or its content.
    Raises DataError when it is no image.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.draft("RGB", (2 * image_size, 2 * image_size))
            ImageOps.exif_transpose(image, in_place=True)
            rgb = to_rgb(image)
            return np.asarray(rgb.resize((image_size, image_size), Image.Resampling.BILINEAR))
    except Image.DecompressionBombError as error:
        raise DataError("too many pixels for an image (possible decompression bomb)") from error
    except UnidentifiedImageError as error:
        raise DataError("not an image") from error
    except DataError:
        raise
    except OSError as error:
        raise DataError(error.strerror or f"broken image ({error})") from error
    except Exception as error:  # Pillow's many decoders raise whatever broken bytes make them raise
        raise DataError(f"broken image ({error})") from error


def source_size(files: Sequence[Path]) -> tuple[int, int] | None:
    """Median width and height, in pixels, of up to SAMPLE of the files, evenly spaced; None where none can be read."""
    sizes = []
    for file in files[:: max(1, len(files) // SAMPLE)]:
        try:
            with Image.open(file) as image:  # reads the header alone
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
