"""Fonts that carry a patient's script, looked for in fixed places and in a fixed order, without a font service.

Order: the font inside Pillow (Latin), the fonts of the package weblate-fonts (every script that names of patients come
in), then well-known fonts of the system. A text is written in the first font with a glyph for each of its letters, so
hosts with the same Python packages write it alike.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import resources
from pathlib import Path

from PIL import ImageFont, features

BUILT_IN = ""
"""Stands for Pillow's own font wherever a font file is meant."""

PACKAGE = "weblate_fonts"
PACKAGED = (
    "KurintoSans-Rg.ttf",
    "KurintoSansJP-Rg.ttf",
    "KurintoSansKR-Rg.ttf",
    "KurintoSansSC-Rg.ttf",
    "KurintoSansTC-Rg.ttf",
)
FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path("~/.local/share/fonts").expanduser(),
    Path("~/.fonts").expanduser(),
)
OF_THE_SYSTEM = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "DroidSansFallbackFull.ttf",
    "unifont.otf",
)
_MISSING = "\U0010ffff"  # no character: every font answers with the glyph for what it lacks
_FORMAT = "Cf"
_TRIAL = 24


@lru_cache(maxsize=1)
def installed() -> tuple[str, ...]:
    """Pillow's own font and the font files of this host, in the order in which they are tried."""
    return (BUILT_IN, *find(packaged(), FOLDERS))


def packaged() -> Path | None:
    """The folder of the fonts of the package, None where it is not installed."""
    try:
        root = resources.files(PACKAGE)
    except ModuleNotFoundError:
        return None
    return Path(str(root)) / "static" / PACKAGE / "kurinto" / "ttf"


def find(package: Path | None, folders: Iterable[Path]) -> Iterator[str]:
    """The font files that are there: those in `package`, then the well-known ones anywhere below `folders`."""
    if package is not None:
        yield from (str(package / name) for name in PACKAGED if (package / name).is_file())
    there: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.[ot]t[cf]")):
            there.setdefault(path.name, path)
    yield from (str(there[name]) for name in OF_THE_SYSTEM if name in there)


def face(text: str) -> str | None:
    """The first font that has a glyph for every letter of `text` and can set it; None when there is none."""
    return next((one for one in installed() if carries(one, text)), None)


def carries(path: str, text: str) -> bool:
    """Whether the font at `path` has a glyph for every letter of `text` and this host can set the text."""
    if _needs_shaping(text) and (path == BUILT_IN or not shapes()):
        return False
    letters = (one for one in text if not one.isspace() and unicodedata.category(one) != _FORMAT)
    return all(_has(path, letter) for letter in letters)


def shapes() -> bool:
    """Whether Pillow can set text that runs from right to left or has to be shaped (raqm with fribidi)."""
    return bool(features.check("raqm"))


def load(path: str, size: int, *, shaping: bool = True) -> ImageFont.FreeTypeFont:
    """The font at `path` in one size.

    Raises:
        TypeError: Pillow was built without FreeType.
    """
    if path == BUILT_IN:
        own = ImageFont.load_default(size)
        if not isinstance(own, ImageFont.FreeTypeFont):
            raise TypeError("Pillow was built without FreeType: it cannot write text of a chosen size")
        return own
    engine = ImageFont.Layout.RAQM if shaping and shapes() else ImageFont.Layout.BASIC
    return ImageFont.truetype(path, size, layout_engine=engine)


def _needs_shaping(text: str) -> bool:
    """Whether letters of `text` run from right to left, or have vowel signs that stand before or around others."""
    return any(unicodedata.bidirectional(one) in {"R", "AL"} or unicodedata.category(one) == "Mc" for one in text)


@lru_cache(maxsize=4096)
def _has(path: str, letter: str) -> bool:
    return _drawn(path, letter) != _drawn(path, _MISSING)


@lru_cache(maxsize=4096)
def _drawn(path: str, letter: str) -> tuple[tuple[int, int], bytes]:
    try:
        mask = _trial(path).getmask(letter)
    except (OSError, ValueError):
        return (0, 0), b"cannot be drawn"
    return mask.size, bytes(mask)


@lru_cache(maxsize=32)
def _trial(path: str) -> ImageFont.FreeTypeFont:
    return load(path, _TRIAL, shaping=False)
