"""What every test may use: where the data lie, and what takes seconds to make and is made once."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # on few cores, threads of several processes only wait for each other

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


LONG = ("tests/training/", "tests/viewers/", "tests/soak/", "tests/pacs/")
"""Folders of modules that take minutes."""


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real radiographs and annotations; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("real data (../shared/data) are not beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Has a folder filled by one of the processes that test, for all of them; it is to be read or copied."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = base / name, base / f"{name}.made"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def empty_registry(made_once) -> Path:
    """MLflow's database without any version: making one takes seconds."""

    def fill(folder: Path) -> None:
        from explain_core.bundles.registry import Registry

        Registry(f"sqlite:///{folder}/mlflow.sqlite", "chest", folder / "artifacts").versions()

    return made_once("registry", fill) / "mlflow.sqlite"


@pytest.fixture(scope="session")
def parts(made_once, empty_registry) -> Path:
    """A small champion in the folder `champion`, and an empty registry beside it."""
    from retraining import make_champion

    def fill(folder: Path) -> None:
        make_champion(folder / "champion")
        shutil.copy(empty_registry, folder)

    return made_once("parts", fill)


def pytest_collection_modifyitems(items) -> None:
    """What takes minutes begins first: otherwise all the others wait at the end for the last that does."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_terminal_summary(terminalreporter) -> None:
    """Name in one line what was left out, and for want of what."""
    left_out = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped")
    )
    kinds = Counter("the real data in ../shared" if "shared" in why else why for why in left_out.elements())
    if kinds:
        named = "; ".join(f"{count} for want of {why}" for why, count in kinds.most_common())
        terminalreporter.write_line(f"left out: {named}")
