"""Labels from a CSV table: read strictly, and everything that is wrong with it is said at once, by line.

    accession_number,target          or: study_instance_uid,target
    000123,1
    000124,normal

UTF-8 (a byte order mark may stand before), columns separated by commas, one row per study. A target is 0, negative or
normal, or 1, positive or opacity, in any case of letters. What is said quotes no cell: it may be a patient's number or
name, and what is said is printed.
"""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_node.errors import NodeError

ACCESSION, STUDY, TARGET = "accession_number", "study_instance_uid", "target"
TARGETS = {"0": 0, "negative": 0, "normal": 0, "1": 1, "positive": 1, "opacity": 1}

Known = Callable[[str], Mapping[str, Sequence[str]]]
"""Name of the key column -> the studies (UIDs) that each of its values stands for."""

_SEPARATORS = {";": "semicolons", "\t": "tabs"}
_FLOAT = re.compile(r"\d+\.0+")
_POWER = re.compile(r"\d(\.\d+)?[eE]\+?\d+")
_QUOTING = re.compile(r"""^\s*(['"=]|[\u2018-\u201f])|['"\u2018-\u201f]\s*$""")
_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """What is wrong in one line, counted from 1, the header included."""

    line: int
    what: str


class LabelsWrong(NodeError):
    """The table cannot be used; `problems` has all that is wrong with it, by line."""

    def __init__(self, path: Path, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__(f"{path}: {len(self.problems)} problem(s); nothing was exported")


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    key: str
    target: int


def read(path: Path, known: Known) -> dict[str, int]:
    """The target (0 or 1) of each study that the table labels, by Study Instance UID.

    Args:
        path: the CSV file.
        known: looks up what was received; called once, and only when the header is right.

    Raises:
        LabelsWrong: anything is wrong with the table.
    """
    problems: list[Problem] = []
    text = _decode(path, problems)
    lines = _cells(text, _separator(text, problems), problems)
    column = _key_column(lines, problems)
    targets: dict[str, int] = {}
    if column is not None:
        studies = known(column)
        bare = {name.lstrip("0") for name in studies}
        rows = _rows(lines[1:], lines[0][1], column, problems)
        targets = _resolve(rows, studies, bare, column, problems)
        if len(lines) == 1:
            problems.append(Problem(1, "the table has a header and no row"))
    if problems:
        raise LabelsWrong(path, problems)
    return targets


def _decode(path: Path, problems: list[Problem]) -> str:
    """The text; in another encoding than UTF-8 it is read on, to find what else is wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LabelsWrong(path, [Problem(0, f"the file cannot be read: {error.strerror}")]) from error
    advice = 'save it as "CSV UTF-8"'
    if data.startswith(_MARKS) or b"\0" in data[:200]:
        problems.append(Problem(1, f"the file is in UTF-16, not in UTF-8; {advice}"))
        return data.decode("utf-16" if data.startswith(_MARKS) else "utf-16-le", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        for number, line in enumerate(data.splitlines(), start=1):
            try:
                line.decode("utf-8-sig")
            except UnicodeDecodeError:
                problems.append(Problem(number, f"letters that are no UTF-8, perhaps Windows-1252; {advice}"))
        return data.decode("cp1252", "replace")


def _separator(text: str, problems: list[Problem]) -> str:
    header = next(iter(text.splitlines()), "")
    for separator, name in _SEPARATORS.items():
        if separator in header and "," not in header:
            problems.append(Problem(1, f"the columns are separated by {name}, not by commas"))
            return separator
    return ","


def _cells(text: str, separator: str, problems: list[Problem]) -> list[tuple[int, list[str]]]:
    """Every line that is not empty: its number and its cells without outer blanks."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        lines.extend((reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells)
    except csv.Error as error:
        problems.append(Problem(reader.line_num, f"the quotes are wrong, and nothing after them was read ({error})"))
    return lines


def _key_column(lines: Sequence[tuple[int, list[str]]], problems: list[Problem]) -> str | None:
    """Which of the two key columns there is, or None when the header is wrong."""
    expected = f"the header must be {ACCESSION},{TARGET} or {STUDY},{TARGET}"
    if not lines:
        problems.append(Problem(1, f"the file is empty; {expected}"))
        return None
    header = [name.casefold() for name in lines[0][1]]
    for column in (ACCESSION, STUDY):
        if sorted(header) == sorted((column, TARGET)):
            return column
    problems.append(Problem(lines[0][0], expected))
    return None


def _rows(
    lines: Sequence[tuple[int, list[str]]], header: Sequence[str], column: str, problems: list[Problem]
) -> Iterator[_Row]:
    """The rows whose cells can be used."""
    at = [name.casefold() for name in header].index(column)
    for line, cells in lines:
        if len(cells) != len(header):
            problems.append(Problem(line, f"{len(cells)} cells where the header has {len(header)}"))
            continue
        key, label = cells[at], cells[1 - at]
        target = TARGETS.get(label.casefold())
        if not label:
            problems.append(Problem(line, "the target is missing"))
        elif target is None:
            problems.append(Problem(line, _no_label(label)))
        if not key:
            problems.append(Problem(line, f"the {column} is missing"))
        elif target is not None:
            yield _Row(line, key, target)
        else:
            yield _Row(line, key, -1)


def _no_label(label: str) -> str:
    said = f"what stands there is no target; use {', '.join(TARGETS)}"
    return f"{said} (a spreadsheet has made a decimal of it?)" if _FLOAT.fullmatch(label) else said


def _resolve(
    rows: Iterator[_Row], studies: Mapping[str, Sequence[str]], bare: set[str], column: str, problems: list[Problem]
) -> dict[str, int]:
    """Targets by study; rows without a usable target take part in the search for repetitions only."""
    first: dict[str, _Row] = {}
    targets: dict[str, int] = {}
    by: dict[str, _Row] = {}
    for row in rows:
        before = first.setdefault(row.key, row)
        if before is not row:
            contrary = {before.target, row.target} == {0, 1}
            what = "another target than" if contrary else "the same study as"
            problems.append(Problem(row.line, f"{what} in line {before.line}"))
            continue
        found = studies.get(row.key, ())
        if not found:
            problems.append(Problem(row.line, f"no study with this {column} was received{_hint(row, bare)}"))
        elif len(found) > 1:
            named = ", ".join(sorted(found))
            problems.append(Problem(row.line, f"{len(found)} studies have this {column}: {named}"))
        else:
            other = by.setdefault(found[0], row)
            if other is not row:
                what = "another target" if {other.target, row.target} == {0, 1} else "the same"
                problems.append(Problem(row.line, f"the study of line {other.line}, with {what}"))
            targets[found[0]] = row.target
    return targets


def _hint(row: _Row, bare: set[str]) -> str:
    """What a spreadsheet may have done to the key."""
    if _POWER.fullmatch(row.key):
        return " (a spreadsheet has made a number of it?)"
    if _FLOAT.fullmatch(row.key):
        return " (a spreadsheet has added the decimals?)"
    if _QUOTING.search(row.key):
        return " (are the quotes part of it?)"
    if row.key.lstrip("0") in bare:
        return " (one with other leading zeros was: a spreadsheet has dropped them?)"
    return ""
