"""What every test may use: where the data lie, and small bundles that need no training."""

import os
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
