"""What is gathered while a source is read: its samples, and everything that is wrong with it."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from training.datasets.images import THREADS, Header, UnreadableImage, header
from training.datasets.samples import OLDEST, SEXES, SPLITS, Box, Dataset, Sample
from training.datasets.tables import Kind, Problem, Row


class Collector:
    """Gathers the problems of one source while it is read, and makes its Dataset."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def note(self, kind: Kind, where: str, detail: str) -> None:
        """Record one problem."""
        self.problems.append(Problem(kind, where, detail))

    def by_name(self, rows: Iterable[Row], column: str) -> dict[str, Row]:
        """Rows by what stands in a column; of several with one name the first, the others are recorded."""
        kept: dict[str, Row] = {}
        for row in rows:
            if kept.setdefault(row.text(column), row) is not row:
                self.note(Kind.DUPLICATE_ROW, row.where, row.text(column))
        return kept

    def box(self, where: str, corners: Box, width: float = 1.0, height: float = 1.0) -> Box | None:
        """A box in pixels of an image of `width` x `height` as fractions of it, cut to the image.

        Returns:
            None for a box without area or wholly outside, which is recorded as a box that had to be clipped is.
        """
        x, y, across, down = corners
        text = f"x={x:g} y={y:g} width={across:g} height={down:g} in an image of {width:g} x {height:g}"
        if across <= 0 or down <= 0:
            self.note(Kind.BOX_EMPTY, where, text)
            return None
        left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + across, width), min(y + down, height)
        if left >= right or top >= bottom:
            self.note(Kind.BOX_OUTSIDE, where, text)
            return None
        if (left, top) == (x, y) and x + across <= width and y + down <= height:
            return x / width, y / height, across / width, down / height
        self.note(Kind.BOX_CLIPPED, where, text)
        return left / width, top / height, (right - left) / width, (bottom - top) / height

    def sex(self, where: str, text: str) -> str:
        """A cell's F, M or O in either case; "" for an empty cell and for anything else, which is recorded."""
        if text.upper() in SEXES:
            return text.upper()
        if text:
            self.note(Kind.LABEL_UNKNOWN, where, f"sex={text}, known are {', '.join(SEXES)}")
        return ""

    def age(self, where: str, text: str) -> float | None:
        """Years of a cell; None for an empty cell and for what is no number from 0 to 120, which is recorded."""
        try:
            years = float(text)
        except ValueError:
            years = math.nan
        if 0 <= years <= OLDEST:
            return years
        if text:
            self.note(Kind.LABEL_UNKNOWN, where, f"age={text}, in years from 0 to {OLDEST}")
        return None

    def headers(self, paths: Iterable[Path]) -> dict[Path, Header]:
        """The headers of the image files that can be used; the others are recorded."""
        wanted = list(dict.fromkeys(paths))
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(_header_or_problem, wanted))
        self.problems += [entry for entry in found if isinstance(entry, Problem)]
        return {path: entry for path, entry in zip(wanted, found, strict=True) if isinstance(entry, Header)}

    def dataset(self, samples: Sequence[Sample], classes: tuple[str, ...], *, exclusive: bool = False) -> Dataset:
        """The Dataset of `samples`; a patient in two splits is kept in the most held-out one."""
        kept = self._held_out(samples)
        return Dataset(samples=kept, classes=classes, exclusive=exclusive, problems=tuple(self.problems))

    def _held_out(self, samples: Sequence[Sample]) -> tuple[Sample, ...]:
        parts: dict[str, dict[str, int]] = {}
        counts: Counter[tuple[str, str]] = Counter()
        for sample in samples:
            if sample.split:
                parts.setdefault(sample.patient_id, {}).setdefault(sample.split, sample.fold)
                counts[sample.patient_id, sample.split] += 1
        moved = {}
        for patient, folds in parts.items():
            if len(folds) > 1:
                split = max(folds, key=SPLITS.index)
                moved[patient] = (split, folds[split])
                images = ", ".join(f"{counts[patient, name]} images in {name}" for name in SPLITS if name in folds)
                self.note(Kind.PATIENT_IN_TWO_SPLITS, f"patient {patient}", f"{images}; all now in {split}")
        if not moved:
            return tuple(samples)
        return tuple(
            replace(sample, split=moved[sample.patient_id][0], fold=moved[sample.patient_id][1])
            if sample.split and sample.patient_id in moved
            else sample
            for sample in samples
        )


def _header_or_problem(path: Path) -> Header | Problem:
    try:
        return header(path)
    except FileNotFoundError:
        return Problem(Kind.IMAGE_MISSING, str(path), "no such file")
    except UnreadableImage as error:
        return Problem(Kind.IMAGE_UNREADABLE, str(path), str(error))


def format_problems(problems: Sequence[Problem], limit: int = 5) -> list[str]:
    """Text lines: each kind with its count, then its first `limit` cases and how many more there are."""
    lines = []
    for kind, count in Counter(problem.kind for problem in problems).most_common():
        lines.append(f"{count} x {kind}")
        cases = [problem for problem in problems if problem.kind == kind][:limit]
        lines += [f"    {problem.where}: {problem.detail}" for problem in cases]
        if count > len(cases):
            lines.append(f"    and {count - len(cases)} more")
    return lines
