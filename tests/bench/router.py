"""From the last image acknowledged to the last result in the archive, beside dicom-ai-router with the same model.

The peer (PyPI, 0.3.0) is installed into a folder of its own and asks its model by HTTP; that server here runs the same
bundle by the same calls as our worker. It takes CT images only, so its list of SOP Classes is widened to radiographs;
nothing else of it is changed, and it waits as long for further images. It sends a secondary capture and a text report;
our node is asked for a secondary capture and a report, and beside that for all that it sends by default.

Studies of one film come at a steady rate. The rates are those of a small hospital and of a large one; what two cores do
not keep up with piles up, in both.
"""

import argparse
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / one) for one in ("", "node", "viewers")]

import whole_node  # noqa: E402 - of the folders above
from soak.pacs import Pacs  # noqa: E402
from soak.verdict import percentiles  # noqa: E402
from working import free_port  # noqa: E402

from dicom_node.deliver import scu  # noqa: E402
from dicom_node.deliver.scu import StoreRequest  # noqa: E402
from dicom_node.demo.run import sample  # noqa: E402
from dicom_node.nouns import AETitle, Destination  # noqa: E402

PEER = "dicom-ai-router==0.3.0"
RATES: Mapping[int, int] = {1: 5, 10: 15, 60: 40}
"""Studies a minute, and how many come."""
QUIET = 1.0
PATIENCE = 600.0
TWO = ("secondary_capture", "structured_report")
SIX = (*TWO, "overlay", "presentation_state", "segmentation", "key_object")
"""What a destination gets of a film without a plane in the patient."""

_PEER = """
import sys, time
from airouter import pipeline
from airouter.config import load_config
from airouter.router import Router
pipeline.IMAGE_SOP_CLASSES |= {"1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"}
Router(load_config(sys.argv[1])).start()
print("ready", flush=True)
while True:
    time.sleep(60)
"""

Figures = dict[str, Any]


def measure(rates: Mapping[int, int] = RATES) -> Figures:
    """Milliseconds of each study by system and rate; of the peer a reason where it cannot be installed."""
    radiograph = sample()
    found: Figures = {"quiet": QUIET, "systems": {}, "absent": ""}
    for name, objects in (("this node, two objects", TWO), ("this node, six objects", SIX)):
        with _node(objects) as (port, pacs):
            found["systems"][name] = _rates(radiograph, port, pacs, rates, len(objects))
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "peer" / "bin" / "python"
        try:
            subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", PEER], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return found | {"absent": f"{PEER} could not be installed: {error}"}
        with _peer(Path(folder), python) as (port, pacs):
            found["systems"][PEER] = _rates(radiograph, port, pacs, rates, len(TWO))
    return found


def markdown(figures: Figures) -> str:
    """A section for docs/performance.md."""
    rates = [*next(iter(figures["systems"].values()))]
    heads = [f"{rate} a minute: median, p95, ms" for rate in rates]
    lines = [
        (
            "From the last C-STORE acknowledged to the last result acknowledged by the archive, less "
            f"{figures['quiet']:g} s of waiting for further images; one film a study, the default bundle behind both."
        ),
        "",
        "| " + " | ".join(["", *heads]) + " |",
        "|" + "---|" * (len(heads) + 1),
    ]
    for name, by_rate in figures["systems"].items():
        found = [percentiles(by_rate[rate]) for rate in rates]
        cells = [f"{one['p50']:,.0f}, {one['p95']:,.0f}" for one in found]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join([*lines, *(["", figures["absent"]] if figures["absent"] else [])])


def _rates(radiograph: Path, port: int, pacs: Pacs, rates: Mapping[int, int], objects: int) -> dict[str, list[float]]:
    there = Destination(name="system", ae_title=AETitle(whole_node.AE_TITLE), host="127.0.0.1", port=port)
    _came(pacs, _send(there, radiograph), objects)  # what is loaded once is loaded
    return {str(rate): _at(there, radiograph, pacs, rate, count, objects) for rate, count in rates.items()}


def _at(there: Destination, radiograph: Path, pacs: Pacs, rate: int, count: int, objects: int) -> list[float]:
    """Milliseconds of `count` studies that come `rate` a minute."""
    sent: list[tuple[str, float]] = []
    senders = []
    begun = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begun + 60 * number / rate - time.monotonic()))
        senders.append(threading.Thread(target=lambda: sent.append(_send(there, radiograph))))
        senders[-1].start()
    for one in senders:
        one.join()
    assert len(sent) == count, "a study was not taken"
    return [1000 * (_came(pacs, one, objects) - one[1] - QUIET) for one in sent]


def _send(there: Destination, radiograph: Path) -> tuple[str, float]:
    """Send a study of its own; its Study Instance UID, and when it was acknowledged."""
    study = f"2.25.{uuid.uuid4().int}"
    with tempfile.TemporaryDirectory() as folder:
        new = {"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.1"[:64], "SOPInstanceUID": f"{study}.2"[:64]}
        path = whole_node.changed(radiograph, Path(folder) / "film.dcm", new)
        asked = StoreRequest(
            key="", sop_instance_uid=new["SOPInstanceUID"], sop_class_uid="1.2.840.10008.5.1.4.1.1.1", path=path
        )
        outcomes = scu.store(there, [asked], calling_ae_title=whole_node.MODALITY_AE_TITLE, timeout=60)
        ((delivered, at),) = [(one.delivered, time.monotonic()) for one in outcomes]
    assert delivered, "the film was not taken"
    return study, at


def _came(pacs: Pacs, sent: tuple[str, float], objects: int) -> float:
    """When the last of so many results of a study had come."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        at = [one.at for one in list(pacs.arrivals) if one.study == sent[0]]
        if len(at) >= objects:
            return max(at)
        time.sleep(0.02)
    raise AssertionError(f"{len(at)} of {objects} results after {PATIENCE:g} s")


@contextlib.contextmanager
def _node(objects: Sequence[str]) -> Iterator[tuple[int, Pacs]]:
    pacs = Pacs()
    pacs.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            there: Any = SimpleNamespace(ae_title="PACS", port=pacs.port)
            with whole_node.running(Path(folder), there, objects) as node:
                here = Destination(name="n", ae_title=AETitle(whole_node.AE_TITLE), host="127.0.0.1", port=node.port)
                node._wait_for(lambda: whole_node._answers(here), "the listener", 120)
                yield node.port, pacs
    finally:
        pacs.stop()


@contextlib.contextmanager
def _peer(folder: Path, python: Path) -> Iterator[tuple[int, Pacs]]:
    pacs, port, model = Pacs(), free_port(), free_port()
    pacs.start()
    config = {
        "router": {"ae_title": whole_node.AE_TITLE, "port": port, "study_quiet_seconds": QUIET, "workers": 2,
                   "workdir": str(folder / "work"), "bind_address": "127.0.0.1"},
        "pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port},
        "ai_endpoints": {"chest": {"url": f"http://127.0.0.1:{model}/", "timeout_s": 300, "retries": 1}},
        "rules": [{"name": "chest", "model": "chest", "match": {"Modality": "^(CR|DX)$"}}],
        "deid": {"salt": secrets.token_hex(32)},
    }  # fmt: skip
    (folder / "router.yaml").write_text(json.dumps(config))  # JSON is YAML
    with contextlib.ExitStack() as stack:
        stack.callback(pacs.stop)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        for command in (
            [sys.executable, str(Path(__file__).with_name("model_server.py")), str(model)],
            [str(python), "-c", _PEER, str(folder / "router.yaml")],
        ):
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
            stack.callback(process.terminate)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", command
        yield port, pacs


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.router", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rates", type=int, nargs="+", default=list(RATES), help="studies a minute")
    parser.add_argument("--studies", type=int, help="at each rate, instead of 5, 15 and 40")
    given = parser.parse_args()
    rates = {rate: given.studies or RATES.get(rate, 10) for rate in given.rates}
    sys.stdout.write(markdown(measure(rates)) + "\n")


if __name__ == "__main__":
    main()
