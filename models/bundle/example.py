"""Print the class probabilities of images, using only this folder: python example.py IMAGE...

It needs numpy, Pillow, and onnxruntime or torch. A file that cannot be read has an error in its row: exit code 1.
"""

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
# Black and white for numbers of more than 8 bits.
ranges = {"whole": (0, 65535), **card["preprocessing"].get("ranges", {})}
formats = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")  # other formats may start programs


def pixels(path: str) -> np.ndarray:
    image: Image.Image = Image.open(path, formats=formats)
    if "colour" in card["preprocessing"].get("ranges", {}) and any(
        ";16" in str(tile.args) for tile in getattr(image, "tile", ())
    ):
        raise ValueError("its colours have 16 bits, which this script does not read (use: study predict)")
    image.draft("RGB", (2 * size, 2 * size))  # JPEG: decode at no less than twice the size, as in training
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # grey levels of 16 or 32 bits
        low, high = ranges["float" if image.mode == "F" else "whole"]
        values = np.nan_to_num(np.asarray(image, np.float64), nan=low, posinf=high, neginf=low)
        image = Image.fromarray(np.clip((values - low) * 255 / (high - low), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def in_words(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def probabilities_of(images: np.ndarray) -> np.ndarray:
    try:
        import onnxruntime

        return np.asarray(onnxruntime.InferenceSession(here / "model.onnx").run(None, {"images": images})[0])
    except Exception as error:  # not installed, or the file is missing or damaged
        first = error
    if not (here / "model.pt2").exists():
        refuse(f"model.onnx cannot be used ({in_words(first)}), and there is no model.pt2")
    try:
        import torch

        return np.asarray(torch.export.load(here / "model.pt2").module()(torch.from_numpy(images)).detach())
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
