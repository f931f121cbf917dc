"""What compressing the Secondary Capture costs and saves: `python -m tests.bench.compression`.

The picture is the one that the default bundle's map is drawn on, of films of 1 and of 5 megapixels; each kind of
compression that a destination may ask for is done as the node does it (dicom_node/results/encoding.py). Decoding is
pydicom's, with the plug-ins that come with the node; a viewer has its own. How long a network takes is computed, not
measured: the bytes over a link of that speed.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "node")]

import numpy as np  # noqa: E402 - of the folders above
from pydicom import Dataset, dcmread  # noqa: E402

from bench import latency  # noqa: E402
from bench.latency import Stopwatch, archive, copied, explained, settings_for  # noqa: E402
from dicom_node.explain import building  # noqa: E402
from dicom_node.results import encoding, result_options  # noqa: E402
from dicom_node.settings.answers import Compression  # noqa: E402

KINDS: tuple[Compression, ...] = get_args(Compression)
LINKS = {"100 Mbit/s": 100e6 / 8, "10 Mbit/s": 10e6 / 8}
"""Bytes a second."""
MB = 1_000_000

Figures = dict[str, Any]


def measure(megapixels: Sequence[int] = (1, 5), *, repeats: int = 5) -> Figures:
    """What each kind of compression does to the picture of a film.

    Args:
        megapixels: of the film.
        repeats: of each, after one that is not counted.

    Returns:
        "load" (before, after), and "films": for each its size and, of each kind, "bytes" of the file, milliseconds and
        CPU milliseconds of encoding it and of decoding it, and "off", the largest difference of a grey or colour.
    """
    load = [os.getloadavg()[0]]
    return {"films": [_of_size(one, repeats) for one in megapixels], "load": [*load, os.getloadavg()[0]]}


def _of_size(megapixels: int, repeats: int) -> Figures:
    native = _picture(megapixels)
    wanted, kinds = native.pixel_array, {}
    for kind in KINDS:
        watch = Stopwatch()
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "picture.dcm"
            for _ in range(repeats + 1):
                ds = copied(native)
                with watch.on("encode"):
                    encoding.compress(ds, wanted, kind)
                ds.save_as(path, enforce_file_format=True)
                read = dcmread(path)
                with watch.on("decode"):
                    shown = read.pixel_array
            size = path.stat().st_size
        watch.forget()
        off = int(np.abs(np.asarray(shown, np.int16) - wanted).max())
        kinds[kind] = {"bytes": size, "off": off, **watch.medians()}
    return {"megapixels": megapixels, "rows": int(native.Rows), "columns": int(native.Columns), "kinds": kinds}


def _picture(megapixels: int) -> Dataset:
    """The Secondary Capture of a film, uncompressed."""
    with tempfile.TemporaryDirectory() as name, archive() as there:
        settings, path = settings_for(Path(name), there), Path(name) / "film.dcm"
        latency.film(megapixels).save_as(path, enforce_file_format=True)
        analysis, _ = explained(Stopwatch(), settings, path, 0)
        results = building.build(analysis, result_options(settings, latency.ARCHIVE, ()))
    return next(one.dataset for one in results if one.kind == "secondary_capture")


def markdown(figures: Mapping[str, Any]) -> str:
    """What docs/performance.md says of it, below its heading."""
    lines = [
        "The Secondary Capture of a film, as a destination's `compression` asks for it; ratios are to the uncompressed",
        "file. Decoding is pydicom's. The last columns are encoding and the bytes over a link of that speed together.",
    ]
    for film in figures["films"]:
        base = film["kinds"]["none"]["bytes"]
        lines += [
            "",
            f"**{film['megapixels']} megapixels, {film['columns']} x {film['rows']}**",
            "",
            f"| compression | MB | ratio | encode, ms | decode, ms | largest error | {' | '.join(LINKS)} |",
            "|---|---:|---:|---:|---:|---:|" + "---:|" * len(LINKS),
        ]
        for kind, run in film["kinds"].items():
            seconds = [run["encode"]["ms"] / 1000 + run["bytes"] / speed for speed in LINKS.values()]
            cells = [
                kind,
                f"{run['bytes'] / MB:.2f}",
                f"{run['bytes'] / base:.2f}",
                f"{run['encode']['ms']:.0f}",
                f"{run['decode']['ms']:.0f}",
                str(run["off"]),
                *(f"{one:.2f} s" for one in seconds),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    load = figures["load"]
    return "\n".join([*lines, "", f"Load average {load[0]:.1f} before and {load[1]:.1f} after.", ""])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.compression", description="Compressed pictures.")
    parser.add_argument("megapixels", nargs="*", type=int, default=[1, 5])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="figures instead of the tables")
    asked = parser.parse_args(arguments)
    figures = measure(asked.megapixels, repeats=asked.repeats)
    print(json.dumps(figures, indent=1) if asked.json else markdown(figures))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
