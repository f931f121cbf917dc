"""Figures that take long, kept on disk so that a stopped benchmark goes on; rows that cannot be, with the reason."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from explain_core.errors import ExplainError
from explain_core.files import write
from training.benchmark.stages import Bench
from training.checkpoints import fingerprint

Figures = dict[str, Any]


@contextmanager
def or_absent(bench: Bench, name: str, absent: dict[str, str]) -> Iterator[None]:
    """Go on without what a method cannot do, and keep the reason; NaN in a map is a ValueError that names the image."""
    try:
        yield
    except (ExplainError, ValueError) as error:
        absent[name] = str(error)
        bench.say(f"{name} left out: {error}")


def remembered(bench: Bench, name: str, mark: str, make: Callable[[], Figures]) -> Figures:
    """Figures that an earlier start of this benchmark wrote for the same things, else made anew and written."""
    path = bench.out / "figures-kept" / f"{name}.json"
    profile = json.dumps(asdict(bench.profile), default=str, sort_keys=True)
    mark = fingerprint(mark, profile, bench.test.images, bench.boxed.images)
    if path.is_file():
        found: Figures = json.loads(path.read_text())
        if found["mark"] == mark:
            kept: Figures = found["figures"]
            return kept
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps({"mark": mark, "figures": made}))
    return made
