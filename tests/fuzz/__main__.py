"""`python -m tests.fuzz TARGET`: any bytes for one part of the node, a million times or as long as there is time.

With atheris (`pip install -e .[fuzz]`) its choice follows what of the code has been reached; without, edits are by
chance. A failure does not end the run: each place that fails is told once, and its input is kept. Exits with 1 where
anything failed, or took more memory than it may.
"""

import argparse
import importlib.util
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [str(ROOT / name) for name in ("tests", "tests/node")]
sys.path[:0] = FOLDERS

MOST_MEMORY = 2 << 30
"""Bytes of address space beside what the process has before its first input: more is a failure (MemoryError)."""
MOST_GROWTH = 300 << 20
"""Bytes of resident memory that a run may gain."""
TELL_SECONDS = 60


class Watch:
    """Runs a target, keeps what failed."""

    def __init__(self, run: Callable[[bytes], None], folder: Path, most: int, seconds: float) -> None:
        from fuzz.targets import resident

        self._run, self._folder, self._most = run, folder, most
        self._resident = resident
        self._end = time.monotonic() + seconds
        self._tell = time.monotonic() + TELL_SECONDS
        self._before = 0
        self.count, self.growth = 0, 0
        self.failures: dict[str, int] = {}

    @property
    def over(self) -> bool:
        return self.count >= self._most or time.monotonic() > self._end

    def one(self, data: bytes) -> None:
        self.count += 1
        try:
            self._run(data)
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            self._failed(error, data)
        if self.count == 2000:
            self._before = self._resident()
        if self.count % 2000 == 0:
            self.growth = max(self.growth, self._resident() - self._before)
        if time.monotonic() > self._tell:
            self._tell += TELL_SECONDS
            print(self.told(), flush=True)  # noqa: T201

    def told(self) -> str:
        return f"{self.count} executions, {len(self.failures)} failures, {self.growth >> 20} MB more memory"

    def _failed(self, error: Exception, data: bytes) -> None:
        frames = [one for one in traceback.extract_tb(error.__traceback__) if "/tests/" not in one.filename]
        ours = [one for one in frames if "/dicom_node/" in one.filename][-1:]
        place = " > ".join(f"{Path(one.filename).name}:{one.lineno}" for one in (*ours, *frames[-1:]))
        name = f"{type(error).__name__} at {place or 'the target itself'}"
        self.failures[name] = self.failures.get(name, 0) + 1
        if self.failures[name] == 1:
            self._folder.mkdir(parents=True, exist_ok=True)
            kept = self._folder / f"failure-{len(self.failures)}"
            kept.write_bytes(data)
            print(f"FAILED: {name}: {error!s:.200}: {kept}", flush=True)  # noqa: T201


def _limit_memory() -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST_MEMORY, hard))


def finish(watch: Watch) -> int:
    """Tell what there was; the exit status."""
    print(watch.told())  # noqa: T201
    for name, count in watch.failures.items():
        print(f"  {count} x {name}", flush=True)  # noqa: T201
    return 1 if watch.failures or watch.growth > MOST_GROWTH else 0


def guided(watch: Watch, seeds: list[bytes], seed: int, folder: Path) -> None:
    """libFuzzer chooses; its loop has no end, so that the process ends from within."""
    import atheris  # the extra [fuzz]

    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(data)
    longest = 2 * max(map(len, seeds))

    def one(data: bytes) -> None:
        watch.one(data)
        if watch.over:
            os._exit(finish(watch))

    arguments = [sys.argv[0], f"-seed={seed}", f"-max_len={longest}", "-rss_limit_mb=0", "-verbosity=0", str(corpus)]
    atheris.Setup(arguments, one)
    atheris.Fuzz()


def parsed(arguments: Sequence[str], names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=names)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--by-chance", action="store_true", help="without atheris, also where it is installed")
    parser.add_argument("--out", type=Path, default=Path("var/fuzz"), help="for failures and the corpus")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    with_atheris = "--by-chance" not in arguments and importlib.util.find_spec("atheris") is not None
    if with_atheris:
        import atheris

        with atheris.instrument_imports(include=["dicom_node", "pydicom", "pynetdicom"]):
            from fuzz import targets
    else:
        from fuzz import targets
    asked = parsed(arguments, [*targets.TARGETS])
    folder = asked.out / asked.target
    make_seeds, ready = targets.TARGETS[asked.target]
    warnings.simplefilter("ignore")
    with ready() as run:
        seeds = make_seeds()
        _limit_memory()
        watch = Watch(run, folder, asked.runs, asked.seconds)
        if with_atheris:
            guided(watch, seeds, asked.seed, folder)
        else:
            for data in targets.inputs(seeds, asked.seed):
                watch.one(data)
                if watch.over:
                    break
    return finish(watch)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
