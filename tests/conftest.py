"""What every test may use: where the data lie, and small bundles that need no training."""

import os
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # on few cores, threads of several processes only wait for each other

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


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


def pytest_terminal_summary(terminalreporter) -> None:
    """Name in one line what was left out, and for want of what."""
    left_out = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped")
    )
    kinds = Counter("the real data in ../shared" if "shared" in why else why for why in left_out.elements())
    if kinds:
        named = "; ".join(f"{count} for want of {why}" for why, count in kinds.most_common())
        terminalreporter.write_line(f"left out: {named}")
