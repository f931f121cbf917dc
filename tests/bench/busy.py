"""A pass of the model on a machine that does other work too: `python -m tests.bench.busy`.

Each pass runs in a process of its own, one image at a time, its threads waiting as they do in the node
(`explain_core.processor.share_cores`) and as GNU OpenMP has them wait by itself: alone, and beside processes that take
a core each. The four take turns.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROUNDS, PASSES = 3, 15
SHARED, OWN = "given away after a moment, as in the node", "held while a thread waits, as by itself"

_PASSES = """
import statistics, sys, time
from pathlib import Path
from explain_core.processor import keep_memory, share_cores
if sys.argv[2] == "shared":
    share_cores()
keep_memory()
import torch
from explain_core.explainer import BundleExplainer
from explain_core.bundles.bundle import load
explainer = BundleExplainer(load(Path(sys.argv[1])), device="cpu", augmentations=0)
x = torch.rand(1, 1, explainer.bundle.input_spec.size, explainer.bundle.input_spec.size)
seconds = []
with torch.inference_mode():
    for _ in range(int(sys.argv[3]) + 2):
        began = time.perf_counter()
        explainer.counterfactuals(x, explainer.decisions(explainer.probabilities(x)))
        seconds.append(time.perf_counter() - began)
print(statistics.median(seconds[2:]))
"""


def measure(*, bundle: Path = ROOT / "dicom_node" / "bundles" / "default", busy: int = 1) -> dict[str, Any]:
    """Seconds of a pass, decision and both images, by how threads wait: "alone" and "beside", a median per round.

    Args:
        bundle: whose networks run.
        busy: processes that take a core each.
    """
    found: dict[str, dict[str, list[float]]] = {name: {"alone": [], "beside": []} for name in (SHARED, OWN)}
    for _ in range(ROUNDS):
        for name, how in ((SHARED, "shared"), (OWN, "own")):
            found[name]["alone"].append(_seconds(bundle, how))
            others = [_busy() for _ in range(busy)]
            try:
                found[name]["beside"].append(_seconds(bundle, how))
            finally:
                for one in others:
                    one.kill()
                    one.wait()
    return {"busy": busy, "cores": os.cpu_count(), "rows": found}


def markdown(figures: Mapping[str, Any]) -> str:
    """What docs/performance.md says of it, below its heading."""
    rows = {name: {key: statistics.median(run[key]) for key in run} for name, run in figures["rows"].items()}
    alone, rounds = rows[OWN]["alone"], len(figures["rows"][OWN]["alone"])
    lines = [
        f"One image at a time on {figures['cores']} cores, decision and both images, alone and beside other processes",
        f"({figures['busy']}) that take a core each, as another unit or container does; medians of {rounds} rounds in",
        "turns. Ratios are to a pass alone whose threads hold their cores.",
        "",
        "| a core is | alone, ms | ratio | beside, ms | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        told = " | ".join(f"{1000 * row[key]:.1f} | {row[key] / alone:.2f}" for key in ("alone", "beside"))
        lines.append(f"| {name} | {told} |")
    return "\n".join([*lines, ""])


def _busy() -> "subprocess.Popen[bytes]":
    """A process in a session of its own: Linux shares the cores among sessions as among units and containers."""
    return subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)


def _seconds(bundle: Path, how: str) -> float:
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", _PASSES, str(bundle), how, str(PASSES)]
    done = subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


if __name__ == "__main__":
    sys.stdout.write(markdown(measure()))
