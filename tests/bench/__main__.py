"""`make bench`: measure, and write the figures into docs/performance.md; ARGS="--only explaining" for a part.

What people wrote in that page stays, and so does every part that is not measured; each part is written when it is
there. One call on a machine with a GPU, which prints and keeps its figures and leaves the page alone:

    python -m tests.bench --only explaining --device cuda --json figures.json
"""

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pynetdicom
import torch

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
PARTS = {
    "explaining": "Explanations",
    "busy": "Beside other work",
    "latency": "A study through the node",
    "router": "Beside dicom-ai-router",
    "compression": "Compressed pictures",
    "ingest": "Receiving",
    "startup": "Starting",
    "ledger": "The ledger as it grows",
}
"""Modules of this folder, with their headings."""


def machine() -> str:
    """What the figures were measured on, and when."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    what = names[0] if names else platform.processor()
    if torch.cuda.is_available():
        what += f", {torch.cuda.get_device_name()}"
    versions = f"torch {torch.__version__}, numpy {np.__version__}, pydicom {pydicom.__version__}"
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"{datetime.now(UTC):%d %B %Y}, {os.cpu_count()} cores ({what}, {torch.backends.cpu.get_cpu_capability()}), "
        f"Python {platform.python_version()}, {versions}, pynetdicom {pynetdicom.__version__}; load before: {load}."
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def section(name: str, figures: Mapping[str, Any], markdown: Callable[[Mapping[str, Any]], str]) -> str:
    """One part of the page."""
    return f"## {PARTS[name]}\n\n{figures['machine']}\n\n{markdown(figures['figures'])}\n"


def page(text: str, sections: Mapping[str, str]) -> str:
    """The page with these sections between its marks, and with those it has of other parts, in the order of PARTS.

    Raises:
        ValueError: the page lacks a mark.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{PAGE}: {BEGIN} and {END} belong there once each, in this order")
    before, rest = text.split(BEGIN)
    inside, after = rest.split(END)
    for part in inside.split("\n## ")[1:]:
        heading = part.split("\n", 1)[0]
        name = next((name for name, known in PARTS.items() if known == heading), None)
        if name is None:
            raise ValueError(f"{PAGE}: no part has the heading {heading!r}; it stands between the marks")
        sections = {name: f"## {part.rstrip()}\n", **sections}
    inside = "\n".join(sections[name] for name in PARTS if name in sections)
    return f"{before}{BEGIN}\n\n{inside}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts; default: all")
    parser.add_argument("--device", help="for the model: cuda; the page then stays as it is")
    parser.add_argument("--json", type=Path, help="write the figures of this run to this file too")
    given = parser.parse_args()
    found = {}
    for name in given.only:
        module = importlib.import_module(f"tests.bench.{name}")
        sys.stdout.write(f"measuring: {PARTS[name]}\n")
        sys.stdout.flush()
        options = {"device": given.device} if given.device and name == "explaining" else {}
        found[name] = {"machine": machine(), "figures": module.measure(**options)}
        measured = section(name, found[name], module.markdown)
        sys.stdout.write(measured + "\n")
        if given.json is not None:
            given.json.write_text(json.dumps(found, indent=1))
        if not given.device:
            if hasattr(module, "draw"):
                module.draw(found[name]["figures"], PAGE.parent)
            PAGE.write_text(page(PAGE.read_text(), {name: measured}))


if __name__ == "__main__":
    main()
