"""Generators as files, one architecture with its loss weights each: Table I of arXiv:2012.07332, and ours."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from explain_core.errors import UnknownName
from explain_core.generators.similar_adversarial import Kind
from explain_core.geometry import AffineRange
from explain_core.losses import LossWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One architecture with its training.

    Attributes:
        name: of the file, e.g. "single_2_w_tv".
        title: as the paper writes it, for the rows of Table I.
        kind, head_layers: see `SimilarAdversarial`; "features" is `FeatureGenerators`.
        weights: of the losses; every weight is written in the file.
        settings: further settings of the run, by the names of `GeneratorSettings`.
    """

    name: str
    title: str
    kind: Kind | Literal["features"]
    head_layers: int
    weights: LossWeights
    settings: Mapping[str, Any] = field(default_factory=dict)


def available() -> tuple[str, ...]:
    """Names of the presets, sorted."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.toml")))


def load(name: str) -> Preset:
    """Read one preset.

    Raises:
        UnknownName: there is none of this name; the message lists those there are.
    """
    if name not in available():
        raise UnknownName(f"no preset {name!r}; there is: {', '.join(available())}")
    table = tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text())
    settings = table.get("settings", {})
    if "decision_affine" in settings:
        settings["decision_affine"] = AffineRange(**settings["decision_affine"])
    return Preset(
        name=name,
        title=table["title"],
        kind=table["kind"],
        head_layers=table["head_layers"],
        weights=LossWeights(**table["weights"]),
        settings=settings,
    )
