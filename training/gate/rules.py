"""The rules of a gate and how they are read from TOML: every mistake is named with its line and what is known."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explain_core import toml_files
from training.errors import TrainingError

DEFAULT = Path(__file__).parent.with_suffix(".toml")
LEVELS = (0.8, 0.9, 0.95, 0.975, 0.99)
"""One-sided confidence levels that figures carry bounds for."""

ALL = "all"
FAMILIES = {
    "view": ("view PA", "view AP"),
    "sex": ("sex F", "sex M"),
    "age": ("age under 40", "age 40 to 59", "age 60 to 79", "age 80 and over"),
}
GROUPS = (ALL, *(group for family in FAMILIES.values() for group in family))

NON_INFERIOR, NOT_CLEARLY_WORSE, MEASURED = "non-inferior", "not clearly worse", "measured"
NOT_WORSE, AT_LEAST, AT_MOST, NO_LEAK = "not worse", "at least", "at most", "no leak"


class GateError(TrainingError):
    """The rules cannot be read; the message names file and line and says what is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A figure that rules may name.

    Attributes:
        text: what a reader calls it.
        higher: whether more is better.
        labelled: whether it needs images whose class is known.
        unit: put after a number.
    """

    text: str
    higher: bool = True
    labelled: bool = False
    unit: str = ""


MEASURES: Mapping[str, Measure] = {
    "auc": Measure(text="ROC AUC", labelled=True),
    "average_precision": Measure(text="average precision", labelled=True),
    "ece": Measure(text="calibration error (ECE)", higher=False, labelled=True),
    "sensitivity": Measure(text="sensitivity at the threshold", labelled=True),
    "specificity": Measure(text="specificity at the threshold", labelled=True),
    "kept_rate": Measure(text="decisions kept by the similar image"),
    "flip_rate": Measure(text="decisions changed by the adversarial image"),
    "flip_rate_positive": Measure(text="positive decisions changed by the adversarial image"),
    "flip_rate_negative": Measure(text="negative decisions changed by the adversarial image"),
    "psnr_similar": Measure(text="PSNR of the similar image", unit=" dB"),
    "ssim_similar": Measure(text="SSIM of the similar image"),
    "psnr_adversarial": Measure(text="PSNR of the adversarial image", unit=" dB"),
    "ssim_adversarial": Measure(text="SSIM of the adversarial image"),
    **{f"iou_{p}": Measure(text=f"overlap of the delivered heatmap and boxes (IoU@{p})") for p in (80, 85, 90, 95, 98)},
    "pointing": Measure(text="delivered heatmap peaks inside a box"),
    "gain_over_prior": Measure(text="IoU@90 of the delivered heatmap beyond the location prior"),
    "gain_over_blur": Measure(text="IoU@90 of the delivered heatmap beyond one pass as smooth"),
}
COUNTS: Mapping[str, str] = {
    "images": "test images",
    "patients": "test patients",
    "labelled": "labelled test images",
    "positive": "positive test images",
    "negative": "negative test images",
    "boxed": "test images with boxes",
}
LEAKS: Mapping[str, str] = {"patients": "patients", "images": "identical images"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One written rule; `training/gate.toml` says what each key means.

    Attributes:
        name: of the rule, unique.
        kind: "not worse", "at least", "at most" or "no leak".
        figure: a name of `MEASURES` or `COUNTS`; of `LEAKS` for "no leak".
        limit: the figure's limit, or the difference d to the champion; 0 for "no leak".
        groups: names of `GROUPS`, families already taken apart.
        judged: how a difference is judged; "" for kinds without a champion.
        sure: one-sided confidence, of `LEVELS`; None judges the measured value.
        positives: labelled positives that a group needs to be judged.
        negatives: labelled negatives that a group needs to be judged.
        images: images with this figure that a group needs to be judged.
        optional: whether a figure that was not measured is let through, and said.
    """

    name: str
    kind: str
    figure: str
    limit: float = 0.0
    groups: tuple[str, ...] = (ALL,)
    judged: str = ""
    sure: float | None = None
    positives: int = 0
    negatives: int = 0
    images: int = 0
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one file, in its order."""

    rules: tuple[Rule, ...]

    @classmethod
    def load(cls, path: Path | None = None) -> "Rules":
        """Read the rules in `path`; None reads the default ones.

        Raises:
            GateError: no such file, no TOML, or an unknown or wrong key, kind, figure or group.
        """
        file = path or DEFAULT
        try:
            content, text = toml_files.read(file, "the gate's rules")
        except toml_files.TomlWrong as error:
            raise GateError(str(error)) from None
        return cls(_Reader(str(file), text).rules(content))


_KEYS = {
    NOT_WORSE: {"figure", "limit", "judged", "sure", "groups", "positives", "negatives", "images"},
    AT_LEAST: {"figure", "limit", "sure", "groups", "positives", "negatives", "images"},
    AT_MOST: {"figure", "limit", "sure", "groups", "positives", "negatives", "images"},
    NO_LEAK: {"figure"},
}
_COMMON = {"name", "kind", "optional"}


@dataclass(frozen=True, slots=True)
class _Reader:
    """Checks one file; knows where its keys stand."""

    file: str
    text: str

    def error(self, index: int, key: str, message: str) -> GateError:
        path = (key,) if index < 0 else ("rule", index, key)
        return GateError(f"{self.file}:{toml_files.line_of(self.text, path) or 1}: {message}")

    def rules(self, content: Mapping[str, Any]) -> tuple[Rule, ...]:
        for key in content:
            if key != "rule":
                raise self.error(-1, key, f"unknown key {key!r}; a gate has [[rule]] tables only")
        tables = content.get("rule", [])
        if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
            raise self.error(-1, "rule", "no [[rule]] table: a gate without rules would let everything pass")
        rules: list[Rule] = []
        for index, table in enumerate(tables):
            rule = self.rule(index, table)
            if rule.name in {other.name for other in rules}:
                raise self.error(index, "name", f"a second rule is named {rule.name!r}; each has its own name")
            rules.append(rule)
        return tuple(rules)

    def rule(self, index: int, table: Mapping[str, Any]) -> Rule:
        kind = self.choice(index, table, "kind", list(_KEYS))
        known = _COMMON | _KEYS[kind]
        for key in table:
            if key not in known:
                raise self.error(index, key, f"unknown key {key!r} of a rule {kind!r}; {_known(sorted(known))}")
        name = table.get("name")
        if not isinstance(name, str) or not name.strip():
            raise self.error(index, "name", "a rule needs a name, a text that the report shows")
        optional = table.get("optional", False)
        if not isinstance(optional, bool):
            raise self.error(index, "optional", f"optional is true or false, not {optional!r}")
        if kind == NO_LEAK:
            figure = self.choice(index, table, "figure", list(LEAKS))
            return Rule(name=name, kind=kind, figure=figure, optional=optional)
        figures = [*MEASURES] if kind == NOT_WORSE else [*MEASURES, *COUNTS]
        figure = self.choice(index, table, "figure", figures)
        judged = self.choice(
            index, table, "judged", [NON_INFERIOR, NOT_CLEARLY_WORSE, MEASURED], needed=kind == NOT_WORSE
        )
        return Rule(
            name=name,
            kind=kind,
            figure=figure,
            limit=self.limit(index, table, kind),
            groups=self.groups(index, table),
            judged=judged,
            sure=self.sure(index, table, judged, figure),
            positives=self.count(index, table, "positives"),
            negatives=self.count(index, table, "negatives"),
            images=self.count(index, table, "images"),
            optional=optional,
        )

    def choice(
        self, index: int, table: Mapping[str, Any], key: str, known: Sequence[str], *, needed: bool = True
    ) -> str:
        if key not in table:
            if not needed:
                return ""
            raise self.error(index, key, f"the rule has no {key!r}; {_known(known)}")
        if table[key] not in known:
            raise self.error(index, key, f"unknown {key} {table[key]!r}; {_known(known)}")
        return str(table[key])

    def limit(self, index: int, table: Mapping[str, Any], kind: str) -> float:
        value = table.get("limit")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(index, "limit", f"limit is a number, not {value!r}")
        if kind == NOT_WORSE and value < 0:
            raise self.error(index, "limit", f"limit is how much worse is allowed, 0 or more, not {value!r}")
        return float(value)

    def count(self, index: int, table: Mapping[str, Any], key: str) -> int:
        value = table.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(index, key, f"{key} is a whole number, 0 or more, not {value!r}")
        return value

    def sure(self, index: int, table: Mapping[str, Any], judged: str, figure: str) -> float | None:
        if judged in {NON_INFERIOR, NOT_CLEARLY_WORSE}:
            value = table.get("sure", 0.95)
        elif "sure" not in table:
            return None
        elif judged == MEASURED or figure in COUNTS:
            raise self.error(index, "sure", "sure says how a bound is drawn; a measured value or a count has none")
        else:
            value = table["sure"]
        if value not in LEVELS:
            raise self.error(index, "sure", f"unknown sure {value!r}; {_known([f'{level:g}' for level in LEVELS])}")
        return float(value)

    def groups(self, index: int, table: Mapping[str, Any]) -> tuple[str, ...]:
        value = table.get("groups", [ALL])
        if not isinstance(value, list) or not value:
            raise self.error(index, "groups", f'groups is a list such as ["all", "view"], not {value!r}')
        found: list[str] = []
        for name in value:
            if name not in GROUPS and name not in FAMILIES:
                raise self.error(index, "groups", f"unknown group {name!r}; {_known([*FAMILIES, *GROUPS])}")
            found += FAMILIES.get(name, (name,))
        return tuple(dict.fromkeys(found))


def _known(names: Sequence[str]) -> str:
    return f"known are: {', '.join(names)}"
