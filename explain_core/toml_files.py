"""TOML files that people write: what is wrong with one is said in one line, `file:line: key: what to do`.

tomllib checks a file but forgets the lines, and pydantic never knew them.
"""

import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any, get_args

from pydantic import BaseModel

from explain_core.errors import ExplainError

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_QUOTES = ('"""', "'''")

Path = tuple[str | int, ...]


class TomlWrong(ExplainError):
    """A file cannot be read, or is no TOML; one line, `file:line: what is wrong`."""


def read(file: FilePath, what: str) -> tuple[dict[str, Any], str]:
    """The tables of a TOML file, and its text.

    Args:
        file: the file, UTF-8.
        what: it is, for the error, e.g. "the settings file".

    Raises:
        TomlWrong: it cannot be read, or is no TOML.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise TomlWrong(f"{file}: cannot read {what}: {reason}") from None
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        where = line[1] if line else max(1, len(text.splitlines()))
        raise TomlWrong(f"{file}:{where}: not valid TOML: {error}") from None


def located(file: FilePath | str, text: str, path: Sequence[str | int], advice: str) -> str:
    """What to do about the key at `path`, after the place where it, or the nearest part of its path, stands."""
    line = line_of(text, path)
    where = f"{file}:{line}" if line else f"{file}"
    return f"{where}: {'.'.join(str(part) for part in path)}: {advice}"


def advice(error: Any, model: type[BaseModel], missing: str = "add this key") -> str:
    """What to do about one error of pydantic's; never the value, which may be a password in a URL.

    Args:
        error: of `ValidationError.errors()`.
        model: that was validated.
        missing: what to say of a key that is not there.
    """
    kind, loc = error["type"], error["loc"]
    if kind == "extra_forbidden":
        known = _known_keys(model, loc[:-1])
        close = difflib.get_close_matches(str(loc[-1]), known, n=1)
        return f"unknown key; did you mean {close[0]}?" if close else f"unknown key; known: {', '.join(known)}"
    if kind == "missing":
        return missing
    if kind == "tuple_type":
        tables = f"is a list of tables: write [[{loc[-1]}]], in two brackets (in the environment a list in JSON)"
        return tables if len(loc) == 1 else "should be a list, in brackets: [...]"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message.replace("Input should", "should") if message.startswith("Input") else message


def _known_keys(model: Any, loc: Sequence[str | int]) -> list[str]:
    for part in loc:
        if isinstance(part, str):
            field = next(field for name, field in model.model_fields.items() if part in {name, field.alias})
            kinds = [field.annotation, *get_args(field.annotation)]
            model = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return sorted(field.alias or name for name, field in model.model_fields.items())


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
