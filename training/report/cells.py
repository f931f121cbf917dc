"""Cells, lines and tables of reports, and safe access to figures of which any part may be missing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, what stands small below it, a mark beside it, and a published value beside both."""

    text: str = ""
    small: str = ""
    mark: str = ""
    paper: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table: its name, its cells, and what kind of row it is, "" for a plain one."""

    name: str
    cells: tuple[Cell, ...]
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with a title, a sentence above and notes below; one without lines says only its notes."""

    title: str
    text: str = ""
    columns: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()


def get(tree: Any, *keys: str | int) -> Any:
    """The value under nested keys and indices, None where any of them is missing."""
    for key in keys:
        if isinstance(tree, Mapping):
            tree = tree.get(key)
        elif isinstance(tree, Sequence) and not isinstance(tree, str) and isinstance(key, int) and key < len(tree):
            tree = tree[key]
        else:
            return None
    return tree


def finite(value: Any) -> bool:
    """Whether a value is a number that can be printed."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def plain(text: str, marks: str = "\\|*`<[") -> str:
    """Text in which no mark ends a Markdown table's cell or becomes markup."""
    for mark in marks:
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
