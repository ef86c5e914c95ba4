"""Settings of the augmentation of training images as a plain value; `data.batches` applies them."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le
from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Settings of the random changes to each training image at strength 1; the defaults change nothing."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # these fields are in the study's TOML file

    rotation: Annotated[float, Ge(0), Le(180), Field(description="degrees, either way")] = 0.0
    hflip: Annotated[bool, Field(description="left and right, half of the time")] = False
    vflip: Annotated[bool, Field(description="up and down, half of the time")] = False
    turns: Annotated[bool, Field(description="by 0, 90, 180 or 270 degrees, each equally likely")] = False
    crop: Annotated[
        float, Gt(0), Le(1), Field(description="smallest share of the area kept; aspect ratio 3/4 to 4/3")
    ] = 1.0
    jitter: Annotated[
        float, Ge(0), Le(0.9), Field(description="brightness, contrast, saturation times 1 - jitter to 1 + jitter")
    ] = 0.0
    stain: Annotated[float, Ge(0), Le(0.9), Field(description="haematoxylin, eosin likewise (Tellez et al. 2018)")] = (
        0.0
    )

    def scaled(self, strength: float) -> "Augment":
        """Return a weaker or stronger augmentation; strength 0 switches all of it off, flips included."""
        return replace(
            self,
            rotation=self.rotation * strength,
            hflip=self.hflip and strength > 0,
            vflip=self.vflip and strength > 0,
            turns=self.turns and strength > 0,
            crop=max(0.1, 1 - (1 - self.crop) * strength),
            jitter=min(0.9, self.jitter * strength),
            stain=min(0.9, self.stain * strength),
        )
