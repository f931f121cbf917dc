"""The gate: written rules that say whether a challenger may take the champion's place, and by how much it failed.

The rules stand in TOML (`training/gate.toml` explains every key); the figures come from `training.measure.comparison`.
Nothing here measures anything: the same rules and figures always give the same verdict.
"""

from training.gate.rules import (
    ALL,
    COUNTS,
    DEFAULT,
    FAMILIES,
    GROUPS,
    LEAKS,
    LEVELS,
    MEASURES,
    GateError,
    Measure,
    Rule,
    Rules,
)
from training.gate.verdict import Finding, Verdict, judge

__all__ = [
    "ALL", "COUNTS", "DEFAULT", "FAMILIES", "GROUPS", "LEAKS", "LEVELS", "MEASURES", "Finding", "GateError", "Measure",
    "Rule", "Rules", "Verdict", "judge",
]  # fmt: skip
