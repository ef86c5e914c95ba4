"""What the tiles of a folder show, as it is kept beside them."""

from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from data import DataError
from data.images import read_file

TILES = "tiles.json"
"""File in a folder of tiles that says what they show."""


class TileFacts(BaseModel):
    """What the tiles of a folder show."""

    um: float = Field(gt=0, allow_inf_nan=False)  # side of a tile, in micrometres
    pixels: int = Field(ge=1)  # side of a tile's file
    slides: int = 0
    tiles: int = 0


def field_of(folder: Path) -> float | None:
    """Return the side of what each image of a folder shows, in micrometres; None if the folder does not say."""
    try:
        return TileFacts.model_validate_json(read_file(folder / TILES, 1 << 20)).um
    except (OSError, DataError, ValidationError, ValueError):
        return None
