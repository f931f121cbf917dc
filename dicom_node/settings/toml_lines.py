"""Where a key stands in a TOML file: tomllib checks the file but forgets the lines."""

import re
from collections.abc import Sequence

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_QUOTES = ('"""', "'''")

Path = tuple[str | int, ...]


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """Line, counted from 1, of the key at `path`, or of the nearest part of the path that the file has.

    Args:
        text: the file, valid TOML.
        path: table names, indices of arrays and the key, from the outside in.
    """
    known = _lines(text)
    for length in range(len(path), 0, -1):
        start = known.get(tuple(path[:length]))
        if start is not None:
            return _inside(text, start, known, path[length:])
    return None


def _lines(text: str) -> dict[Path, int]:
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    inside_string = False
    for number, line in enumerate(text.splitlines(), start=1):
        if not inside_string:
            if header := _HEADER.match(line):
                table = _table(_parts(header[2]), counts, array=header[1] == "[[")
                found.setdefault(table, number)
            elif key := _KEY.match(line):
                found.setdefault(table + _parts(key[1]), number)
        if sum(line.count(quotes) for quotes in _QUOTES) % 2:
            inside_string = not inside_string
    return found


def _table(parts: Path, counts: dict[Path, int], *, array: bool) -> Path:
    path: Path = ()
    for position, part in enumerate(parts):
        path = (*path, part)
        if array and position == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _parts(dotted: str) -> Path:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _inside(text: str, start: int, known: dict[Path, int], rest: Sequence[str | int]) -> int:
    """Look for the rest of the path in the value that begins on line `start`: inline tables in an array."""
    name = next((part for part in reversed(rest) if isinstance(part, str)), None)
    if name is None:
        return start
    index = next((part for part in rest if isinstance(part, int)), 0)
    lines = text.splitlines()
    end = min((line for line in known.values() if line > start), default=len(lines) + 1)
    key = re.compile(rf"(?<![\w-]){re.escape(name)}\s*=")
    hits = [number for number in range(start, end) for _ in key.finditer(lines[number - 1])]
    return hits[min(index, len(hits) - 1)] if hits else start
