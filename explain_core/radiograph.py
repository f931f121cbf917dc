"""Radiograph: the one image type that explanation methods see."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Radiograph:
    """A single-frame projection radiograph as display luminance.

    Attributes:
        pixels: float32, shape (rows, columns), 0 = black and 1 = white as a viewer would show it
            (after modality LUT, VOI LUT and inversion of MONOCHROME1).
        spacing: row and column pixel spacing in mm, or None when the source does not say.
        orientation: PatientOrientation (0020,0020) of the rows and columns, or None.
        source_id: what the pixels came from: a SOP Instance UID or a file name.
    """

    pixels: NDArray[np.float32]
    spacing: tuple[float, float] | None
    orientation: tuple[str, str] | None
    source_id: str

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2 or min(self.pixels.shape) < 1:  # noqa: PLR2004 - rows and columns
            raise ValueError(f"a radiograph has two axes, got shape {self.pixels.shape}")
        if self.pixels.dtype != np.float32:
            raise ValueError(f"radiograph pixels are float32, got {self.pixels.dtype}")
