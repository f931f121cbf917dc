"""Tables and paragraphs of the statement."""

import textwrap
from collections.abc import Iterable

_WIDTH = 118


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """The lines of a table, and the empty one that ends it."""
    every = [head, tuple("---" for _ in head), *rows]
    return [*(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in every), ""]


def prose(*text: str) -> list[str]:
    """The lines of a paragraph, and the empty one that ends it."""
    return [*textwrap.wrap(" ".join(text), _WIDTH, break_long_words=False, break_on_hyphens=False), ""]
