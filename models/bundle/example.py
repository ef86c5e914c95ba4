"""Print the class probabilities of images, using only this folder: python example.py IMAGE...

It needs numpy, Pillow, and onnxruntime or torch.
"""

import json
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image, ImageOps

here = Path(__file__).parent
card = json.loads((here / "card.json").read_text(encoding="utf-8"))
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


def refuse(line: str) -> NoReturn:
    print(line, file=sys.stderr)
    raise SystemExit(2)


def checked(path: str) -> np.ndarray:
    try:
        return pixels(path)
    except Exception as error:  # a decoder may raise any error
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        refuse(f"{path} cannot be read as an image: {reason}")


if not sys.argv[1:]:
    refuse("no image was named (type: python example.py IMAGE...)")
images = np.stack([checked(path) for path in sys.argv[1:]])  # uint8 [N, size, size, 3]
try:
    import onnxruntime

    (probabilities,) = onnxruntime.InferenceSession(here / "model.onnx").run(None, {"images": images})
except ImportError:
    import torch

    probabilities = torch.export.load(here / "model.pt2").module()(torch.from_numpy(images)).detach().numpy()
for path, row in zip(sys.argv[1:], probabilities.tolist()):
    print(json.dumps({"path": path, "probabilities": dict(zip(card["classes"], row))}))
