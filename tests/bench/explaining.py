"""The model's speed: beside other methods on one classifier, at saturation, on the roofline, and as it grows.

    methods     seconds per explanation at batch 1 and 16 over GradCAM's, as in Table IX of arXiv:2012.07332
    roofline    images a second of decision and explanation, and which part of the time the device's arithmetic and
                memory alone would need: for each operation the larger of its FLOPs over the measured peak and its
                bytes over the measured bandwidth (Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009)
    growth      milliseconds by batch and by copies averaged
    front       IoU@90 on validation patients by copies averaged, beside what they cost; needs ../shared

Speed does not depend on what an image shows; only the front looks at radiographs.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from explain_core.bundles.bundle import load
from explain_core.explainer import BundleExplainer
from explain_core.processor import keep_memory
from explain_core.quality.localisation import columns, score_maps
from explain_core.quality.resampling import mean
from training import cohort, datasets
from training.measure.estimates import gain
from training.measure.localisation import AT_90

from .speed import DECISION, DELIVERED, ONE_PASS, PEER, speed

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "dicom_node" / "bundles" / "default"
NIH = ROOT.parent / "shared" / "data" / "nih_cxr14_subset"
BATCHES, COPIES = (1, 4, 16, 64), (0, 1, 2, 4, 10, 20)
REPEATS, SIDE, WORDS = 9, 1024, 1 << 24
FRONT = "performance-front.png"

Figures = dict[str, Any]


class _Bytes(TorchDispatchMode):
    """Counts what each operation reads and writes, and its FLOPs, by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[float, float]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with FlopCounterMode(display=False) as counter:
            found = func(*args, **(kwargs or {}))
        tensors = [one for one in torch.utils._pytree.tree_leaves((args, kwargs, found)) if isinstance(one, Tensor)]
        self.operations.append((float(counter.get_total_flops()), float(_moved(func, tensors))))
        return found


def _moved(func: Any, tensors: Sequence[Tensor]) -> int:
    """Bytes read and written; 0 for a view, which moves nothing."""
    return 0 if func.is_view else sum(one.numel() * one.element_size() for one in tensors)


def measure(*, bundle: Path = BUNDLE, device: str = "auto", baselines: bool = True, data: Path = NIH) -> Figures:
    """All of it.

    Args:
        bundle: whose networks run.
        device: "auto", "cpu" or "cuda[:n]".
        baselines: the methods that take minutes too.
        data: radiographs with boxes, for the front; left out where they are not.
    """
    keep_memory()
    explainer = BundleExplainer(load(bundle), device=device, augmentations=0)
    figures: Figures = {
        "methods": speed(bundle=bundle, device=device, repeats=REPEATS, baselines=baselines),
        "roofline": roofline(explainer),
        "growth": growth(explainer),
    }
    if data.is_dir():
        figures["front"] = front(explainer, data)
    return figures


def roofline(explainer: BundleExplainer) -> Figures:
    """Images a second at each batch, and the least time that arithmetic and memory need over the time it took."""
    peak, bandwidth = _peak(explainer.device), _bandwidth(explainer.device)
    rows = {}
    for what, call in (("decision", _decision(explainer)), ("decision and one pass", _explained(explainer))):
        rows[what] = []
        for batch in BATCHES:
            images = _images(batch, explainer)
            with torch.no_grad(), _Bytes() as seen:
                call(images)
            least = sum(max(flops / peak, moved / bandwidth) for flops, moved in seen.operations)
            seconds = _median(lambda call=call, images=images: call(images), explainer.device)
            rows[what].append(
                {
                    "batch": batch,
                    "images_per_second": batch / seconds,
                    "gflops": sum(flops for flops, _ in seen.operations) / batch / 1e9,
                    "megabytes": sum(moved for _, moved in seen.operations) / batch / 1e6,
                    "share": least / seconds,
                }
            )
    return {"device": str(explainer.device), "peak_gflops": peak / 1e9, "gigabytes": bandwidth / 1e9, "rows": rows}


def growth(explainer: BundleExplainer) -> Figures:
    """Milliseconds of a map by the number of copies, one image, and per image of ten copies by the batch."""
    one = _images(1, explainer)
    by_copies = {
        str(copies): 1e3 * _median(lambda copies=copies: _map(explainer, one, copies), explainer.device)
        for copies in COPIES
    }
    by_batch = {}
    for batch in (1, 4, 16):
        images = _images(batch, explainer)
        by_batch[str(batch)] = (
            1e3 * _median(lambda images=images: _map(explainer, images, 10), explainer.device) / batch
        )
    return {"copies": by_copies, "batch": by_batch}


def front(explainer: BundleExplainer, data: Path) -> Figures:
    """What copies are worth on validation patients with boxes: the delivered map's IoU@90 by their number."""
    images, _ = cohort.load(datasets.read(f"nih:{data}"), explainer.bundle.input_spec)
    boxed = images.part(cohort.VALIDATION)
    boxed = boxed.take(np.flatnonzero([truth is not None for truth in boxed.truths]))
    scores = {}
    for copies in COPIES:
        averaged = BundleExplainer(explainer.bundle, device=str(explainer.device), augmentations=copies)
        maps = [_shown(averaged, image[None].float() / 255) for image in boxed.images]
        scores[copies] = columns(score_maps(maps, list(boxed.truths)))["iou"][:, AT_90]
    patients = np.array(boxed.patients)
    best = scores[10]
    return {
        "images": len(boxed),
        "rows": {
            str(copies): {"iou_90": float(found.mean()), "over_ten": gain(found, best, mean, patients)}
            for copies, found in scores.items()
        },
    }


def markdown(figures: Figures) -> str:
    """Sections for docs/performance.md."""
    return "\n\n".join(
        part
        for part in (
            _methods(figures["methods"]),
            _roofline(figures["roofline"]),
            _growth(figures["growth"], figures.get("front")),
        )
    )


def _methods(found: Figures) -> str:
    lines = [
        "### Explanations beside other methods, on one classifier",
        "",
        (
            f"{found['classifier']}, {found['size']} px, {found['device']}, {found['threads']} threads, decision "
            f"included on both sides; ratios are to {PEER}. {found['augmentations']} copies are delivered."
        ),
        "",
        "| | batch 1, ms | ratio | batch 16, ms an image | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, row in found["rows"].items():
        many = f"{1e3 * row['batch_16']:.1f} | {row['ratio_16']:.2f}" if "batch_16" in row else "- | -"
        lines.append(f"| {name} | {1e3 * row['batch_1']:.1f} | {row['ratio_1']:.2f} | {many} |")
    rows = found["rows"]
    added = (rows[ONE_PASS]["batch_1"] - rows[DECISION]["batch_1"]) / rows[PEER]["batch_1"]
    said = f"One pass adds {added:.2f} of GradCAM's time to the decision."
    if "bbmp" in rows:
        one, delivered = (rows["bbmp"]["batch_1"] / rows[name]["batch_1"] for name in (ONE_PASS, DELIVERED))
        said += (
            f" BBMP takes {one:,.0f} times as long as one pass, {delivered:,.0f} times as long as the delivered map."
        )
    return "\n".join([*lines, "", said])


def _roofline(found: Figures) -> str:
    lines = [
        "### At saturation, and the share of the roofline",
        "",
        (
            f"{found['device']}: {found['peak_gflops']:,.0f} GFLOP/s in a product of matrices of {SIDE}, "
            f"{found['gigabytes']:.1f} GB/s in a copy, float32, both measured in this run."
        ),
        "",
        "| | batch | images a second | GFLOP an image | MB moved an image | share of the roofline |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in found["rows"].items():
        lines += [
            (
                f"| {name} | {row['batch']} | {row['images_per_second']:.1f} | {row['gflops']:.2f} "
                f"| {row['megabytes']:.0f} | {row['share']:.2f} |"
            )
            for row in rows
        ]
    return "\n".join(lines)


def draw(figures: Mapping[str, Any], folder: Path) -> None:
    """The front of cost and worth as a picture, FRONT in `folder`; nothing where the worth was not measured."""
    from matplotlib.figure import Figure

    if not figures.get("front"):
        return
    rows, spent = figures["front"]["rows"], figures["growth"]["copies"]
    base = rows["10"]["iou_90"]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.axhline(base, color="#9ca3af", linestyle=":", linewidth=1)
    for copies, row in rows.items():
        low, high = row["over_ten"]["interval"]
        errors = [[max(0, row["iou_90"] - base - low)], [max(0, high - (row["iou_90"] - base))]]
        axis.errorbar(spent[copies], row["iou_90"], errors, fmt="o", color="#0b5394", capsize=3)
        axis.annotate(copies, (spent[copies], row["iou_90"]), xytext=(6, 5), textcoords="offset points")
    peer = 1e3 * figures["methods"]["rows"][PEER]["batch_1"]
    axis.axvline(peer, color="#8a5a00", linestyle="--", linewidth=1)
    axis.annotate("GradCAM", (peer, axis.get_ylim()[0]), xytext=(4, 4), textcoords="offset points", color="#8a5a00")
    axis.set(xscale="log", xlabel="ms for one image", ylabel=f"IoU@90, {figures['front']['images']} validation images")
    ticks = [tick for tick in (10, 20, 50, 100, 200, 500) if axis.get_xlim()[0] < tick < axis.get_xlim()[1]]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set_title("Copies averaged (0: one pass); bars: 95 % of the paired gain over ten", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / FRONT, dpi=110, metadata={"Software": None})


def _growth(found: Figures, fronted: Figures | None) -> str:
    lines = [
        "### Copies: what they cost and what they are worth",
        "",
        (
            "IoU@90 of the map as it is shown, on validation patients with boxes; the gain over ten copies is paired, "
            "with a 95 % interval by patient."
        ),
        "",
        "| copies | ms, one image | IoU@90 | gain over ten |",
        "|---|---|---|---|",
    ]
    for copies, spent in found["copies"].items():
        row = (fronted or {"rows": {}})["rows"].get(copies)
        worth = "not measured | not measured"
        if row is not None:
            low, high = row["over_ten"]["interval"]
            worth = f"{row['iou_90']:.3f} | {row['over_ten']['value']:+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(f"| {copies} | {spent:.1f} | {worth} |")
    many = ", ".join(f"{spent:.1f} ms an image at batch {batch}" for batch, spent in found["batch"].items())
    pictured = ["", f"![Cost and worth of averaged copies]({FRONT})"] if fronted else []
    return "\n".join([*lines, *pictured, "", f"Ten copies: {many}."])


def _decision(explainer: BundleExplainer) -> Callable[[Tensor], Any]:
    return lambda images: explainer.decisions(explainer.probabilities(images))


def _explained(explainer: BundleExplainer) -> Callable[[Tensor], Any]:
    """One pass of the classifier that decides and explains."""
    method = explainer._method(explainer.method)
    return lambda images: method(explainer._classifier, images, torch.zeros(len(images), dtype=torch.long))


def _map(explainer: BundleExplainer, images: Tensor, copies: int) -> Tensor:
    decisions = torch.ones(len(images), dtype=torch.long, device=images.device)
    return explainer.heatmap(images, decisions, augmentations=copies)[0]


def _shown(explainer: BundleExplainer, image: Tensor) -> np.ndarray:
    image = image.to(explainer.device)
    with torch.no_grad():
        decision = explainer.decisions(explainer.probabilities(image))
        return explainer.shown(image, decision)[0][0, 0].cpu().numpy()


def _images(batch: int, explainer: BundleExplainer) -> Tensor:
    size = explainer.bundle.input_spec.size
    images = torch.rand(batch, 1, size, size, generator=torch.Generator().manual_seed(0))
    return images.to(explainer.device).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _median(call: Callable[[], Any], device: torch.device, repeats: int = REPEATS) -> float:
    """Seconds, after one call to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _peak(device: torch.device) -> float:
    """FLOP/s of a product of two square matrices."""
    a = torch.rand(SIDE, SIDE, device=device)
    return 2 * SIDE**3 / _median(lambda: a @ a, device)


def _bandwidth(device: torch.device) -> float:
    """Bytes a second of a copy, read and written."""
    source = torch.rand(WORDS, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / _median(lambda: target.copy_(source), device)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.explaining", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="without the baselines that take minutes")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    figures = measure(bundle=given.bundle, device=given.device, baselines=not given.quick)
    sys.stdout.write(markdown(figures) + "\n")
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
