"""Print the class probabilities of images, using only this folder: python example.py IMAGE...

It needs numpy, Pillow, and onnxruntime or torch. A file that cannot be read has an error in its row: exit code 1.
"""

import io
import json
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image, ImageOps


def refuse(line: str) -> NoReturn:
    print(line, file=sys.stderr)
    raise SystemExit(2)


here = Path(__file__).parent
try:
    card = json.loads((here / "card.json").read_text(encoding="utf-8"))
except (OSError, ValueError) as error:
    refuse(f"{here / 'card.json'} cannot be read: {error} (copy the whole folder again)")
size = card["preprocessing"]["size"]
known = card["preprocessing"].get("ranges") or {}  # black and white for numbers of more than 8 bits
ranges = known or {"whole": (0, 65535)}
formats = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")  # other formats may start programs


Image.MAX_IMAGE_PIXELS = None  # see MOST: a JPEG may be larger before it is reduced
MOST = 1e8
"""Largest number of pixels of an image."""


def refuse_deep(image: Image.Image) -> None:
    """Raise ValueError for images of more than 8 bits that Pillow, or this script, would read wrongly."""
    modes = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (8,))  # of each channel
    if "LA;16" in modes or (tags.get(284) == 2 and len(bits) > 1 and max(bits) > 8):
        raise ValueError("16 bits with transparency, or in separate planes (save it interleaved, without transparency)")
    if known and "RGB" in modes and ";16" in modes:
        raise ValueError("its colours have 16 bits, which this script does not read (use: study predict)")


def pixels(path: str) -> np.ndarray:
    # Not opened by its path: Pillow would map some files into memory, and garbles TIFFs among them that are turned.
    image: Image.Image = Image.open(io.BytesIO(Path(path).read_bytes()), formats=formats)
    refuse_deep(image)
    image.draft("RGB", (2 * size, 2 * size))  # JPEG: decode at no less than twice the size, as in training
    if image.width * image.height > MOST:
        raise ValueError(f"more than {MOST / 1e6:.0f} megapixels")
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # grey levels of 16 or 32 bits
        kind = "float" if image.mode == "F" else "whole"
        if kind not in ranges:
            raise ValueError("which of its numbers are black and white is not known (convert it to 8 bits)")
        low, high = ranges[kind]
        values = np.nan_to_num(np.asarray(image, np.float64), nan=low, posinf=high, neginf=low)
        image = Image.fromarray(np.clip((values - low) * 255 / (high - low), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def in_words(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def probabilities_of(images: np.ndarray) -> np.ndarray:
    parts = np.split(images, range(16, len(images), 16))  # a few at once, whatever their number
    try:
        import onnxruntime

        session = onnxruntime.InferenceSession(here / "model.onnx")
        return np.concatenate([session.run(None, {"images": part})[0] for part in parts])
    except Exception as error:  # not installed, or the file is missing or damaged
        first = error
    if not (here / "model.pt2").exists():
        refuse(f"model.onnx cannot be used ({in_words(first)}), and there is no model.pt2")
    try:
        import torch

        network = torch.export.load(here / "model.pt2").module()
        with torch.no_grad():
            return np.concatenate([network(torch.from_numpy(part)).numpy() for part in parts])
    except Exception as error:
        refuse(f"neither model.onnx ({in_words(first)}) nor model.pt2 ({in_words(error)}) can be used")


if not sys.argv[1:]:
    refuse("no image was named (type: python example.py IMAGE...)")
rows: list[dict[str, object]] = []
good: list[np.ndarray] = []
for path in sys.argv[1:]:
    try:
        good.append(pixels(path))  # uint8 [size, size, 3]
        rows.append({"path": path})
    except Exception as error:  # a decoder may raise any error
        rows.append({"path": path, "error": f"cannot be read as an image: {in_words(error)}"})
found = iter(probabilities_of(np.stack(good)).tolist() if good else ())
for row in rows:
    print(json.dumps(row if "error" in row else {**row, "probabilities": dict(zip(card["classes"], next(found)))}))
raise SystemExit(1 if len(good) < len(rows) else 0)
