"""The page of what a classifier looks at: pictures first, then what they are worth."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.report.page import environment

_LEAST_SIDE = 96


def picture(pixels: NDArray[np.uint8]) -> str:
    """A PNG as a data URI; small ones are enlarged by whole pixels."""
    factor = max(1, -(-_LEAST_SIDE // pixels.shape[0]))
    buffer = io.BytesIO()
    large = np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)
    Image.fromarray(large).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def html(title: str, intro: Sequence[str], questions: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """The report as one HTML file that loads nothing from elsewhere.

    Args:
        title: of the page.
        intro: lines under it.
        questions: {"name", "attributes", "table", "notes"}: attributes are {"name", "facts" (lines), "strips"}, strips
            {"frames": [(picture, text)], "change": picture}; table is {"columns", "rows"}.
        notes: lines at the end.
    """
    return str(
        environment(escape=True)
        .get_template("attributes.html.j2")
        .render(title=title, intro=intro, questions=questions, notes=notes)
    )
