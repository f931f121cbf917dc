"""What the node adds to the model: `python -m tests.bench.latency`.

Two views of one thing, each of a chest radiograph (RG1_UNCR of NEMA's working group 4, resampled) that the default
bundle calls and explains, with the result objects that the demo sends: seven, and the stand-ins that lie ready.

    stages   one study in this process, stage by stage, for images of several sizes: medians of wall clock and CPU
    node     the node as it runs, its roles as processes over Redis and SQLite, a Storage SCP of dcmtk on loopback: from
             the last C-STORE that was acknowledged to the last result that is. Quiet time, in which the node waits on
             purpose, and the model's own seconds are taken off: what is left is the node's.

Others may use the machine: CPU stands beside wall clock, and the load beside both.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / part) for part in ("", "node", "viewers")]

import numpy as np  # noqa: E402 - of the folders above
import whole_node  # noqa: E402
from PIL import Image  # noqa: E402
from pydicom import Dataset, dcmread  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless  # noqa: E402
from radiographs import real  # noqa: E402
from soak.verdict import percentiles  # noqa: E402
from working import free_port, instance, study, task, wait_for  # noqa: E402

from dicom_node.clock import utc_now  # noqa: E402
from dicom_node.deliver import scu  # noqa: E402
from dicom_node.deliver.scu import StoreRequest  # noqa: E402
from dicom_node.dicom import pixels, reading  # noqa: E402
from dicom_node.errors import DeliveryUnreachable  # noqa: E402
from dicom_node.explain import building, pipeline, worker  # noqa: E402
from dicom_node.nouns import AETitle, Delivery, DeliveryState, Destination, StudyState  # noqa: E402
from dicom_node.results import result_options  # noqa: E402
from dicom_node.settings.sections import Settings  # noqa: E402
from dicom_node.storage.ledger import Ledger  # noqa: E402
from dicom_node.storage.spool import Spool  # noqa: E402
from dicom_node.watch import logs, metrics  # noqa: E402

MEGAPIXELS = (1, 3, 5, 12)
OBJECTS = ("secondary_capture", "structured_report", "presentation_state", "synthetic_images")
"""What the demo sends: of an image with evidence three objects and a series of four."""
ARCHIVE = "PACS"
MODEL = ("classify", "explain")
TARGET_MS = 400
"""What the node may add to a study, in the median, of a radiograph of 5 megapixels."""

Figures = dict[str, Any]


def measure(
    megapixels: Sequence[int] = MEGAPIXELS, *, repeats: int = 7, studies: int = 15, pause: float = 2.0
) -> Figures:
    """Both views, as plain figures.

    Args:
        megapixels: sizes of the image, for the stages; the node is given images of 5.
        repeats: of each stage, after one that is not counted.
        studies: that the node is sent, after one that is not counted; 0 leaves the node out.
        pause: seconds between the last result of one study and the next study.
    """
    logs.configure("error")
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # while nobody answers yet
    load = [os.getloadavg()[0]]
    stages = [of_size(one, repeats) for one in megapixels]
    node = of_node(studies, pause) if studies else None
    return {"stages": stages, "node": node, "cores": os.cpu_count(), "load": [*load, os.getloadavg()[0]]}


def film(megapixels: float) -> Dataset:
    """A computed radiograph of 12 bits with about so many million pixels."""
    ds = dcmread(real("RG1_UNCR.dcm"))
    scale = math.sqrt(megapixels * 1e6 / (ds.Rows * ds.Columns))
    rows, columns = (2 * round(scale * side / 2) for side in (ds.Rows, ds.Columns))
    whole = Image.fromarray(ds.pixel_array.astype(np.float32))
    values = np.asarray(whole.resize((columns, rows), Image.Resampling.BICUBIC)) / (1 << ds.BitsStored - 12)
    # as noisy as a detector, so that codecs have something to do
    noise = np.random.default_rng(0).normal(0, 4, values.shape)
    ds.Rows, ds.Columns = rows, columns
    ds.BitsStored, ds.HighBit = 12, 11
    ds.PixelData = np.clip(np.rint(values + noise), 0, 4095).astype("<u2").tobytes()
    for keyword in ("VOILUTSequence", "SmallestImagePixelValue", "LargestImagePixelValue"):
        ds.pop(keyword, None)
    ds.WindowCenter, ds.WindowWidth = "2048", "4096"
    return ds


def encodings(ds: Dataset) -> Iterator[tuple[str, Dataset]]:
    """The same film as modalities and archives send it."""
    yield "uncompressed", ds
    for name, syntax, codec in (
        ("JPEG 2000 lossless", JPEG2000Lossless, "pylibjpeg"),
        ("JPEG-LS lossless", JPEGLSLossless, "pyjpegls"),
    ):
        packed = copied(ds)
        packed.compress(syntax, encoding_plugin=codec, generate_instance_uid=False)
        yield name, packed
    lossy, stored = copied(ds), np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)
    buffer = io.BytesIO()
    Image.fromarray((stored >> 4).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    lossy.BitsAllocated = lossy.BitsStored = 8
    lossy.HighBit = 7
    lossy.PixelData = encapsulate([buffer.getvalue()])
    lossy["PixelData"].VR, lossy["PixelData"].is_undefined_length = "OB", True
    lossy.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    yield "JPEG baseline, 8 bits", lossy


def copied(ds: Dataset) -> Dataset:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return dcmread(buffer)


class Stopwatch:
    """Seconds of named stages, wall clock and CPU of this process, in the order in which they first came up."""

    def __init__(self) -> None:
        self._spent: dict[str, list[tuple[float, float | None]]] = {}

    @contextlib.contextmanager
    def on(self, name: str) -> Iterator[None]:
        """The block is one run of the stage."""
        began, cpu = time.perf_counter(), time.process_time()
        yield
        self._spent.setdefault(name, []).append((time.perf_counter() - began, time.process_time() - cpu))

    def forget(self) -> None:
        """Drop the first run of every stage, which warms up."""
        self._spent = {name: spent[1:] for name, spent in self._spent.items()}

    def medians(self) -> dict[str, dict[str, float]]:
        """Milliseconds of each stage."""
        return {
            name: {
                "ms": 1000 * statistics.median(wall for wall, _ in spent),
            }
            | ({} if spent[0][1] is None else {"cpu_ms": 1000 * statistics.median(cpu for _, cpu in spent)})
            for name, spent in self._spent.items()
        }


def of_size(megapixels: int, repeats: int) -> Figures:
    """The stages of one study in this process."""
    with tempfile.TemporaryDirectory() as name, archive() as there:
        folder, watch = Path(name), Stopwatch()
        settings = settings_for(folder, there)
        ds = film(megapixels)
        files = {}
        for number, (what, encoded) in enumerate(encodings(ds)):
            files[what] = folder / f"{number}.dcm"
            encoded.save_as(files[what], enforce_file_format=True)
        analysis, about = explained(watch, settings, files["uncompressed"], repeats)
        spool, ledger = Spool.of(settings), Ledger(settings.node.database)
        ledger.create()
        for again in range(repeats + 1):
            for what, path in files.items():
                with watch.on(f"read and decode: {what}"):
                    pixels.render(reading.read(path))
            _study(watch, settings, _anew(analysis), spool, ledger, there, again)
        watch.forget()
        ledger.close()
        return {"megapixels": megapixels, "rows": int(ds.Rows), "columns": int(ds.Columns), **about} | {
            "stages": watch.medians()
        }


def explained(watch: Stopwatch, settings: Settings, path: Path, repeats: int) -> tuple[pipeline.Analysis, Figures]:
    """What the model says of a file, and how long it thinks."""
    from dicom_node.app import load_explainer  # loads torch

    model, one = load_explainer(settings), study(instance(1, path=path))
    read = lambda _: reading.read(path)  # noqa: E731
    analysis = pipeline.analyse(task(one), one, read, model, methods=settings.methods())
    assert analysis.explained, analysis.reason
    (image,) = analysis.explained
    for _ in range(min(repeats, 3) + 1):
        with watch.on("model: decision"):
            assessment = model.classify(image.radiograph)
        with watch.on("model: explanation"):
            model.explain(image.radiograph, settings.methods(), assessment)
    outlined = float(image.explanations[0].attribution.half_of_evidence.mean())
    assert outlined, "the film has evidence"
    return analysis, {"probability": image.assessment.prediction.probability, "outlined": outlined}


def _anew(analysis: pipeline.Analysis) -> pipeline.Analysis:
    """The same, of which nothing has been computed yet."""
    explained = tuple(
        dataclasses.replace(
            image,
            explanations=tuple(
                dataclasses.replace(one, attribution=dataclasses.replace(one.attribution)) for one in image.explanations
            ),
        )
        for image in analysis.explained
    )
    return dataclasses.replace(analysis, explained=explained)


def _study(
    watch: Stopwatch, settings: Settings, analysis: pipeline.Analysis, spool: Spool, ledger: Ledger, there, again: int
) -> None:
    """What follows the model, as the worker and the sender do it."""
    options, name = result_options(settings, ARCHIVE, ()), f"t{again}"
    with watch.on("build, all objects"), _each_builder(watch, options):
        results = building.build(analysis, options)
    for kind in dict.fromkeys(one.kind for one in results):
        with watch.on(f"encode and write alone: {kind}"):
            spool.write_outbox(f"alone{again}", [one.dataset for one in results if one.kind == kind])
    with watch.on("encode and write, all objects"):
        paths = spool.write_outbox(name, [one.dataset for one in results])
    with watch.on("views for the dashboard"):
        for view, content in building.views(analysis, options):
            spool.write_view(name, view, content)
    mine = task(study(instance(1)), name)
    owed = [worker._delivery(mine, one, path, ARCHIVE, utc_now()) for one, path in zip(results, paths, strict=True)]
    _in_ledger(watch, ledger, name, owed)
    due = [one for one in owed if one.state is DeliveryState.PENDING]
    with watch.on("send, all objects, association included"):
        began = time.perf_counter()
        for delivery, outcome in zip(due, _sent(due, there), strict=True):
            assert outcome.delivered, outcome
            ended = time.perf_counter()
            watch._spent.setdefault(f"send: {delivery.kind}", []).append((ended - began, None))
            began = ended
    with watch.on("ledger: what was sent, all objects"):
        for delivery in due:
            ledger.delivery_sent(delivery.delivery_id, utc_now(), 0, None)


@contextlib.contextmanager
def _each_builder(watch: Stopwatch, options) -> Iterator[None]:
    """Builders are timed where the pipeline calls them, in its order: what one has computed the next one finds."""
    made, before = building._with_fallbacks(building._in_order(options.objects)), {}
    for kind in {type(one) for one in made}:
        before[kind] = kind.build
        kind.build = _timed(watch, kind.build)
    try:
        yield
    finally:
        for kind, build in before.items():
            kind.build = build


def _timed(watch: Stopwatch, build: Callable[..., Any]) -> Callable[..., Any]:
    def timed(self, context):
        with watch.on(f"build: {self.name}"):
            return build(self, context)

    return timed


def _in_ledger(watch: Stopwatch, ledger: Ledger, name: str, owed: Sequence[Delivery]) -> None:
    """The transactions of a study, from its image to its deliveries on their way."""
    now, uid = utc_now(), f"2.25.{uuid.uuid4().int}"
    one = dataclasses.replace(instance(1, study=uid), received_at=now)
    with watch.on("ledger: image received"):
        ledger.add_instance(one)
    revision = study(one)
    with watch.on("ledger: study ready"):
        ledger.mark_ready(revision, [task(revision, name)], now)
    with watch.on("ledger: task submitted and leased"):
        ledger.task_submitted(name, now)
        ledger.lease(name, "w", now, 60)
    with watch.on("ledger: task finished, deliveries owed"):
        ledger.renew_lease(name, "w", now, 60, 1.0)
        assert ledger.complete(name, "w", deliveries=owed, state=StudyState.EXPLAINED, reason=None, now=now)
    with watch.on("ledger: deliveries leased"):
        first = next(one for one in owed if one.state is DeliveryState.PENDING)
        assert ledger.lease_deliveries(first.delivery_id, "s", utc_now(), 60, pause_after=3)


def _sent(owed: Sequence[Delivery], there: Destination) -> Iterator[scu.StoreOutcome]:
    requests = [
        StoreRequest(
            key=one.delivery_id, sop_instance_uid=one.sop_instance_uid, sop_class_uid=one.sop_class_uid, path=one.path
        )
        for one in owed
    ]
    yield from scu.store(there, requests, calling_ae_title=whole_node.AE_TITLE, timeout=60)


def settings_for(folder: Path, there: Destination) -> Settings:
    table = {"name": ARCHIVE, "ae_title": there.ae_title, "host": there.host, "port": there.port}
    objects = [name for name in OBJECTS if name != "synthetic_images"]
    return Settings.model_validate(
        {
            "node": {"spool": folder / "spool", "database": f"sqlite:///{folder}/ledger.sqlite", "low_water_mb": 0},
            "destinations": [table | {"objects": objects, "synthetic_images": "synthetic_images" in OBJECTS}],
        }
    )


@contextlib.contextmanager
def archive() -> Iterator[Destination]:
    """dcmtk's Storage SCP, which keeps nothing and answers at once."""
    port = free_port()
    command = ["storescp", "--ignore", "-aet", ARCHIVE, str(port)]
    there = Destination(name=ARCHIVE, ae_title=AETitle(ARCHIVE), host="127.0.0.1", port=port)
    with subprocess.Popen(command, env=os.environ | {"TCP_NODELAY": "1"}) as process:
        try:
            wait_for(lambda: _answers(there), 60, "storescp")
            yield there
        finally:
            process.terminate()


def _answers(there: Destination) -> bool:
    try:
        return scu.echo(there, calling_ae_title=whole_node.AE_TITLE, timeout=5) == 0
    except DeliveryUnreachable:
        return False


def of_node(studies: int, pause: float, megapixels: int = 5) -> Figures:
    """The node as it runs; seconds of each study."""
    found = []
    with tempfile.TemporaryDirectory() as name, archive() as there:
        folder = Path(name)
        pacs = SimpleNamespace(ae_title=there.ae_title, port=there.port)
        ds = film(megapixels)
        with whole_node.running(folder, pacs, OBJECTS) as node:
            here = Destination(name="node", ae_title=AETitle(whole_node.AE_TITLE), host="127.0.0.1", port=node.port)
            node._wait_for(lambda: whole_node._answers(here), "the listener", 120)
            for number in range(studies + 1):
                found.append(_one_study(node, here, ds, number))
                time.sleep(pause + number % 7 / 10)  # not in step with any look that the node takes
            quiet = whole_node.load_settings(folder / "dicom-node.toml").study.quiet.total_seconds()
    return {"megapixels": megapixels, "quiet": quiet, "studies": [_split(one, quiet) for one in found[1:]]}


def _one_study(node: whole_node.Node, here: Destination, ds: Dataset, number: int) -> Figures:
    """Send one study; when it was acknowledged, what the ledger says of it, and the worker's stages."""
    uid = f"2.25.{uuid.uuid4().int}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = uid, f"{uid}.1", f"{uid}.1.1"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    path = node.folder / f"sent{number}.dcm"
    ds.save_as(path, enforce_file_format=True)
    before = _stages(node.folder)
    acknowledged = _acknowledged(here, ds, path)
    node._wait_for(lambda: node._delivered(uid), "every delivery", 300)
    line = node.ledger.timeline(uid)
    after = _stages(node.folder)
    shutil.rmtree(node.folder / "spool" / "outbox", ignore_errors=True)
    path.unlink()
    return {
        "total": line.delivered_at - acknowledged,
        "ready": line.ready_at - acknowledged,
        "leased": line.leased_at - line.ready_at,
        "explained": line.explained_at - line.leased_at,
        "delivered": line.delivered_at - line.explained_at,
        "stages": {name: seconds - before.get(name, 0) for name, seconds in after.items()},
    }


def _acknowledged(here: Destination, ds: Dataset, path: Path) -> datetime:
    """Store a film as a modality would; when it was acknowledged, before the association is released."""
    request = StoreRequest(key="", sop_instance_uid=ds.SOPInstanceUID, sop_class_uid=ds.SOPClassUID, path=path)
    outcomes = scu.store(here, [request], calling_ae_title=whole_node.MODALITY_AE_TITLE, timeout=60)
    ((delivered, at),) = [(outcome.delivered, datetime.now(UTC)) for outcome in outcomes]
    assert delivered
    return at


def _stages(folder: Path) -> dict[str, float]:
    """Seconds that all tasks so far spent in each stage."""
    samples = (one for family in metrics.collect(folder / "metrics").collect() for one in family.samples)
    return {one.labels["stage"]: one.value for one in samples if one.name == "dicom_node_job_seconds_sum"}


def _split(found: Figures, quiet: float) -> Figures:
    """A study's milliseconds: of the model, and of every step of the node."""
    step = {name: value / timedelta(milliseconds=1) for name, value in found.items() if name != "stages"}
    stages = {name: 1000 * seconds for name, seconds in found["stages"].items()}
    model = sum(stages[name] for name in MODEL)
    return {
        "total": step["total"],
        "model": model,
        "overhead": step["total"] - 1000 * quiet - model,
        "noticed": step["ready"] - 1000 * quiet,
        "leased": step["leased"],
        "decode": stages["decode"],
        "build": stages["build"],
        "write": stages["write"],
        "rest of the task": step["explained"] - model - stages["decode"] - stages["build"] - stages["write"],
        "delivered": step["delivered"],
    }


STEPS = {
    "total": "all, quiet time included",
    "model": "the model: decision and explanation",
    "overhead": "**the node: the rest without quiet time**",
    "noticed": "quiet time is over (it began before the acknowledgement) until the study is ready",
    "leased": "ready until a worker has it",
    "decode": "file read and decoded",
    "build": "objects built",
    "write": "objects encoded and durable",
    "rest of the task": "the task's other work: headers, ledger",
    "delivered": "done until the last object is acknowledged",
}


def markdown(figures: Figures) -> str:
    """Sections with tables for docs/performance.md."""
    load = " to ".join(f"{one:.1f}" for one in figures["load"])
    parts = [f"Medians in milliseconds; load {load} on {figures['cores']} cores.\n"]
    if figures["stages"]:
        processes = "decoders and the destination have processes of their own"
        parts += ["### By stage, in one process\n", f"Wall clock, and in brackets CPU of the process; {processes}.\n"]
        parts.append(_stage_table(figures["stages"]))
    if figures["node"] is not None:
        parts += ["### The node as it runs\n", _node_table(figures["node"])]
    return "\n".join(parts)


def _stage_table(sizes: Sequence[Figures]) -> str:
    head = [f"{one['megapixels']} MP ({one['columns']} x {one['rows']})" for one in sizes]
    lines = [f"| stage | {' | '.join(head)} |", "|---|" + "---:|" * len(sizes)]
    for name in sizes[0]["stages"]:
        cells = [_cell(one["stages"][name]) for one in sizes]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(spent: dict[str, float]) -> str:
    return f"{spent['ms']:.1f}" + (f" ({spent['cpu_ms']:.1f})" if "cpu_ms" in spent else "")


def _node_table(node: Figures) -> str:
    studies = node["studies"]
    what = f"{len(studies)} studies of one image of {node['megapixels']} megapixels, one after the other"
    span = "from the last C-STORE acknowledged to the last result acknowledged"
    lines = [f"{what}; quiet time {node['quiet']:g} s; {span}.\n", "| step | median ms | p95 ms |", "|---|---:|---:|"]
    for name, said in STEPS.items():
        values = [one[name] for one in studies]
        lines.append(f"| {said} | {statistics.median(values):.0f} | {percentiles(values)['p95']:.0f} |")
    found = statistics.median(one["overhead"] for one in studies)
    verdict = "reached" if found <= TARGET_MS else "missed"
    return "\n".join(lines) + f"\n\nThe node may add {TARGET_MS} ms: {verdict}.\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.latency", description="What the node adds.")
    parser.add_argument("--megapixels", type=int, nargs="*", default=MEGAPIXELS, help="sizes, for the stages")
    parser.add_argument("--repeats", type=int, default=7, help="of each stage")
    parser.add_argument("--studies", type=int, default=15, help="that the node is sent; 0: no node")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    asked = parser.parse_args(arguments)
    figures = measure(asked.megapixels, repeats=asked.repeats, studies=asked.studies)
    if asked.json is not None:
        asked.json.write_text(json.dumps(figures, indent=1))
    print(markdown(figures))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
