"""CSV tables of a dataset with errors that name the file, the line and the column, and problems that are counted."""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class DatasetError(SystemExit):
    """A dataset cannot be read at all; the message names the file and says what is wrong with it."""


class Kind(StrEnum):
    """Every kind of bad input that a reader works around, and what it does about it."""

    BOX_CLIPPED = "box partly outside its image, clipped"
    BOX_OUTSIDE = "box wholly outside its image, left out"
    BOX_EMPTY = "box without area, left out"
    BOX_UNMATCHED = "box of an image without a label, left out"
    IMAGE_MISSING = "image file missing, image left out"
    IMAGE_UNREADABLE = "image file unreadable, image left out"
    IMAGE_UNLABELLED = "patient of the split without a label, left out"
    PATIENT_IN_TWO_SPLITS = "patient in two splits, kept in the most held-out one"
    DUPLICATE_ROW = "duplicate row, the first one kept"
    LABEL_UNKNOWN = "label not known, treated as missing"
    LABEL_CONTRADICTED = "label contradicted by another file, treated as missing"
    SPLIT_UNKNOWN = "split not known, image in no split"
    NOT_USED = "rows that the dataset's protocol leaves out"


@dataclass(frozen=True, slots=True)
class Problem:
    """One piece of bad input.

    Attributes:
        kind: what is wrong and what was done, one of `Kind`.
        where: the file and line, the image or the patient.
        detail: the values in question.
    """

    kind: Kind
    where: str
    detail: str


def counted(problems: Iterable[Problem]) -> dict[str, int]:
    """How many problems of each kind, most frequent first."""
    return {str(kind): count for kind, count in Counter(problem.kind for problem in problems).most_common()}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a CSV file: `line` counts from 1, the header included."""

    path: Path
    line: int
    cells: dict[str, str]

    @property
    def where(self) -> str:
        """The file's name and the line, for problems."""
        return f"{self.path.name}, line {self.line}"

    def text(self, column: str) -> str:
        """The cell without outer blanks; "" where the table lacks the column."""
        return self.cells.get(column, "")

    def number(self, column: str) -> float:
        """The cell as a finite number.

        Raises:
            DatasetError: it is none.
        """
        try:
            value = float(self.cells[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DatasetError(f"{self.path}, line {self.line}, column {column}: {self.text(column)!r} is not a number")
        return value

    def integer(self, column: str) -> int:
        """The cell as a whole number.

        Raises:
            DatasetError: it is none.
        """
        value = self.number(column)
        if value != int(value):
            raise DatasetError(
                f"{self.path}, line {self.line}, column {column}: {self.text(column)!r} is not a whole number"
            )
        return int(value)


def table(path: Path, required: Sequence[str], hint: str = "") -> list[Row]:
    """All rows of a CSV file with a header; a byte order mark and blank lines are skipped.

    Raises:
        DatasetError: the file is missing or no text, lacks a required column, or a row has too few or too many cells.
    """
    if not path.is_file():
        raise DatasetError(f"{path.parent}: {path.name} is missing" + (f"; {hint}" if hint else ""))
    rows = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            absent = [name for name in required if name not in header]
            if absent:
                raise DatasetError(f"{path}: no column {', '.join(absent)}; the header has: {', '.join(header)}")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise DatasetError(
                        f"{path}, line {reader.line_num}: {len(cells)} cells where the header has {len(header)}"
                    )
                rows.append(Row(path, reader.line_num, {k: v.strip() for k, v in zip(header, cells, strict=True)}))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not a CSV table in UTF-8: {error}") from error
    return rows
