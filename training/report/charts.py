"""Charts of a training run's report as SVG: the models differ by line and hatch, not by colour alone."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from training.report.cells import finite

Figures = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]
# role -> colour, line, hatch of the band, marker
STYLES = {
    "challenger": ("#0b5394", "-", None, "o"),
    "champion": ("#8a5a00", "--", "....", "s"),
}
_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "run", "font.size": 9, "font.family": "sans-serif"}
_COLUMNS = 4
_MOST = 8
_X = ("epoch", "step")


def _picture(draw: Any, columns: int, rows: int, size: tuple[float, float]) -> str:
    """A figure as the data URI of an SVG; `draw` is called with its axes, flat."""
    import matplotlib as mpl  # noqa: PLC0415 - extra "training"
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(visible=True, color="#e5e7eb", linewidth=0.6)
        draw(axes)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _plain(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def curves(figures: Figures) -> str:
    """ROC, precision over recall, and calibration of both models with 95 % bands; "" without labels."""
    models: Mapping[str, Any] = figures.get("models", {})
    if not any("roc" in model for model in models.values()):
        return ""

    def draw(axes: Any) -> None:
        _bands(axes[0], models, "roc", "auc", "AUC")
        axes[0].plot([0, 1], [0, 1], color="#9ca3af", linewidth=0.8, linestyle=":")
        axes[0].set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
        _bands(axes[1], models, "pr", "average_precision", "AP")
        axes[1].set(title="Precision and recall", xlabel="recall", ylabel="precision")
        axes[1].legend(loc="lower left", frameon=False)
        axes[0].legend(loc="lower right", frameon=False)
        _calibration(axes[2], models)
        for axis in axes:
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")

    return _picture(draw, 3, 1, (4.0, 4.2))


def _bands(axis: Any, models: Figures, curve: str, figure: str, short: str) -> None:
    for role, (colour, line, hatch, _) in STYLES.items():
        found = models.get(role, {}).get(curve)
        if not found:
            continue
        value = models[role].get("figures", {}).get(figure, {}).get("all", {}).get("value")
        text = role if value is None else f"{role}, {short} {value:.3f}"
        low, high = _plain(found["low"]), _plain(found["high"])
        axis.fill_between(
            found["x"], low, high, alpha=0.13, hatch=hatch, facecolor=colour, edgecolor=colour, linewidth=0
        )
        axis.plot(found["x"], _plain(found["value"]), color=colour, linestyle=line, linewidth=1.6, label=text)


def _calibration(axis: Any, models: Figures) -> None:
    axis.plot([0, 1], [0, 1], color="#9ca3af", linewidth=0.8, linestyle=":")
    for shift, (role, (colour, line, _, marker)) in zip((-0.004, 0.004), STYLES.items(), strict=True):
        bins = [row for row in models.get(role, {}).get("calibration", {}).get("bins", ()) if row.get("rate")]
        ece = models.get(role, {}).get("figures", {}).get("ece", {}).get("all", {}).get("value")
        x = [row["mean"] + shift for row in bins]
        y = [row["rate"]["value"] for row in bins]
        ends = [row["rate"]["interval"] or [value, value] for row, value in zip(bins, y, strict=True)]
        errors = [[max(0.0, v - e[0]) for v, e in zip(y, ends, strict=True)]]
        errors += [[max(0.0, e[1] - v) for v, e in zip(y, ends, strict=True)]]
        axis.errorbar(
            x, y, yerr=errors, color=colour, linestyle=line, marker=marker, markersize=4, linewidth=1.2, elinewidth=0.7,
            label=role if ece is None else f"{role}, ECE {ece:.3f}",
        )  # fmt: skip
    axis.set(title="Calibration", xlabel="mean probability of the bin", ylabel="share of positives")
    axis.legend(loc="upper left", framealpha=0.85, edgecolor="none")


def history(rows: Rows) -> str:
    """The curves of one stage of training, one small chart a figure; "" where there is nothing to draw."""
    known = {key for row in rows for key, value in row.items() if finite(value)}
    x_name = next((name for name in _X if name in known), "")
    names = [key for key in dict.fromkeys(key for row in rows for key in row) if key in known - set(_X)][:_MOST]
    if not names:
        return ""

    def draw(axes: Any) -> None:
        for axis in axes[len(names) :]:
            axis.set_axis_off()
        for axis, name in zip(axes, names, strict=False):
            points = [
                (row.get(x_name, index + 1), row[name]) for index, row in enumerate(rows) if finite(row.get(name))
            ]
            axis.plot([x for x, _ in points], [y for _, y in points], color=STYLES["challenger"][0], marker=".")
            axis.set_title(name.replace("_", " "))
            axis.set_xlabel(x_name or "report")

    columns = min(_COLUMNS, len(names))
    return _picture(draw, columns, -(-len(names) // columns), (3.0, 2.2))
