"""docs/conformance.md, the conformance statement, made of the code's own tables and of objects that are really built.

`python tests/docs/conformance_page.py` writes it anew; `dicom-node conformance` prints it.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conformance import render  # noqa: E402 - of this checkout

PAGE = ROOT / "docs" / "conformance.md"

if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
