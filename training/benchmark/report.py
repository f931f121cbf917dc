"""The report of a benchmark: Markdown for the repository, one self-contained HTML file for readers, and its figures."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.benchmark.report_cells import ABOVE, BELOW, Result
from training.benchmark.report_localisation import remembered
from training.benchmark.report_tables import tables
from training.report.cells import Cell, Table, get, plain
from training.report.page import environment

Box = tuple[float, float, float, float]
LEGEND = (
    "Ours with the 95 % interval; the paper's value (arXiv:2012.07332; another classifier, RSNA test images, other "
    f"hardware) beside it. {ABOVE} and {BELOW}: the interval of a difference lies above or below 0."
)
MAX_FIGURE_BYTES = 300_000
_RESOLUTION = 110
_OUTLINE = "#00ff9c"
_IMAGES = frozenset({"original", "similar", "adversarial"})
_MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


def heading(result: Result) -> list[tuple[str, str]]:
    """What made the result: command, profile and commit, as far as it says."""
    names = (("command", "Command"), ("profile", "Profile"), ("commit", "Commit"))
    return [(name, " ".join(str(result[key]).replace("`", "'").split())) for key, name in names if result.get(key)]


def title(result: Result) -> str:
    """The report's title."""
    return f"Benchmark on {get(result, 'data', 'spec') or 'unnamed data'}"


def settings_text(result: Result) -> str:
    """Settings that stand in no table, as JSON: the result's own, the classifier's and each generator's."""
    found = {"settings": result.get("settings"), "classifier": get(result, "classifier", "settings")}
    generators = result.get("generators")
    for name, entry in generators.items() if isinstance(generators, Mapping) else ():
        found[name] = get(entry, "settings")
    kept = {name: value for name, value in found.items() if value}
    return json.dumps(kept, indent=1, default=str) if kept else ""


def markdown(result: Result) -> str:
    """The whole report as Markdown, figures as links relative to the report's folder."""
    lines = [f"# {_plain(title(result))}", ""]
    lines += [f"- {name}: `{value}`" for name, value in heading(result)]
    lines += [part for line in remembered(result) for part in ("", _plain(line))]
    lines += ["", f"{LEGEND} The paper's value is in italics.", ""]
    for table in tables(result):
        lines += _markdown_table(table)
    for figure in result.get("figures") or ():
        caption = _plain(str(get(figure, "caption") or ""))
        lines += [f"![{caption}]({get(figure, 'file')})", "", caption, ""]
    settings = settings_text(result)
    if settings:
        lines += ["## Settings", "", "```json", settings, "```", ""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    return plain(text, "\\|*_`<[")


def _markdown_table(table: Table) -> list[str]:
    lines = [f"## {_plain(table.title)}", ""]
    if table.text:
        lines += [_plain(table.text), ""]
    if table.lines:
        lines += [f"| | {' | '.join(map(_plain, table.columns))} |", "|---|" + "---|" * len(table.columns)]
        lines += [f"| {_plain(line.name)} | {' | '.join(map(_markdown_cell, line.cells))} |" for line in table.lines]
        lines.append("")
    lines += [f"- {_plain(note)}" for note in table.notes]
    return [*lines, ""] if table.notes else lines


def _markdown_cell(cell: Cell) -> str:
    parts = [_plain(cell.text), f"({cell.small})" if cell.small else "", cell.mark]
    parts.append(f"*{cell.paper}*" if cell.paper else "")
    return " ".join(part for part in parts if part)


def html(result: Result, folder: Path) -> str:
    """The whole report as one HTML file that loads nothing from elsewhere.

    Args:
        result: the benchmark's result.
        folder: where the files of `result["figures"]` lie.
    """
    return str(
        environment(escape=True)
        .get_template("benchmark.html.j2")
        .render(
            title=title(result),
            heading=heading(result),
            remembered=remembered(result),
            legend=LEGEND,
            tables=tables(result),
            figures=[_figure(figure, folder) for figure in result.get("figures") or ()],
            settings=settings_text(result),
        )
    )


def _figure(figure: Any, folder: Path) -> dict[str, str]:
    """Caption and data URI of a figure; the URI is "" where the file is missing or no picture."""
    path = folder / str(get(figure, "file") or "")
    media, data = _MEDIA.get(path.suffix.lower()), ""
    if media and path.is_file():
        data = f"data:{media};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return {"caption": str(get(figure, "caption") or ""), "data": data, "file": path.name}


def draw_case(
    path: Path, panels: Sequence[tuple[str, NDArray[Any]]], truth: Sequence[Box] | NDArray[np.bool_] = ()
) -> None:
    """Draw one case as the paper's Figures 2 to 4: images and heatmaps side by side, the truth on each.

    The file stays within 300 kB: where it would not, it gets fewer colours, then fewer pixels.

    Args:
        path: the PNG file to write; its folder is made.
        panels: name and image of each panel, shape (rows, columns). The leading panels named original, similar or
            adversarial are images in [0, 1], drawn in grey on that scale; one named difference is drawn on a scale
            symmetric around 0; all others are heatmaps, drawn from 0 to their maximum.
        truth: boxes as x, y, width, height in fractions of the image, or a mask, shape (rows, columns), whose outline
            is drawn.

    Raises:
        ValueError: there is no panel, or a panel has more or less than two axes.
    """
    if not panels:
        raise ValueError("a figure needs at least one panel")
    for name, values in panels:
        if np.ndim(values) != 2:  # noqa: PLR2004 - rows and columns
            raise ValueError(f"panel {name}: expected rows and columns, got shape {np.shape(values)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = Image.fromarray(_draw(panels, truth))
    for shrink in (None, 1.0, 2.0, 4.0):
        picture = drawn
        if shrink is not None:
            size = (round(drawn.width / shrink), round(drawn.height / shrink))
            picture = drawn.resize(size, Image.Resampling.LANCZOS).quantize(256, kmeans=2)
        picture.save(path, format="PNG", optimize=True)
        if path.stat().st_size <= MAX_FIGURE_BYTES:
            return


def _draw(panels: Sequence[tuple[str, NDArray[Any]]], truth: Sequence[Box] | NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The figure's pixels, shape (rows, columns, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - extra "benchmark"
    from matplotlib.figure import Figure  # noqa: PLC0415

    columns = min(len(panels), 6)
    count = -(-len(panels) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.1 * count), dpi=_RESOLUTION)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(count, columns, squeeze=False).ravel()
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=1 - 0.08 / count, wspace=0.03, hspace=0.12)
    for axis in axes:
        axis.set_axis_off()
    names = [name.lower() for name, _ in panels]
    images = next((index for index, name in enumerate(names) if name not in _IMAGES), len(names))
    for index, (name, values) in enumerate(panels):
        array = np.asarray(values, np.float32)
        colours, low, high = ("gray", 0.0, 1.0) if index < images else _scale(name, array)
        axes[index].imshow(array, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        axes[index].set_title(name, fontsize=7)
        _outline(axes[index], truth, array.shape)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba")
    width, height = canvas.get_width_height()
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)[..., :3].copy()


def _outline(axis: Any, truth: Sequence[Box] | NDArray[np.bool_], shape: tuple[int, ...]) -> None:
    from matplotlib.patches import Rectangle  # noqa: PLC0415 - extra "benchmark"

    if isinstance(truth, np.ndarray):
        if truth.any() and not truth.all():
            axis.contour(truth, levels=[0.5], colors=_OUTLINE, linewidths=1)
        return
    rows, columns = shape
    for x, y, width, height in truth:
        corner = (x * columns - 0.5, y * rows - 0.5)
        axis.add_patch(Rectangle(corner, width * columns, height * rows, fill=False, edgecolor=_OUTLINE, linewidth=1))


def _scale(name: str, array: NDArray[np.float32]) -> tuple[str, float, float]:
    """Colour map and range of a panel that is no image."""
    known = np.abs(array[np.isfinite(array)])
    peak = float(known.max(initial=0.0)) or 1.0
    return ("RdBu_r", -peak, peak) if name.lower() == "difference" else ("magma", 0.0, peak)
