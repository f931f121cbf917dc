"""The rows of Table I of arXiv:2012.07332 as files, one generator architecture with its loss weights each."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from explain_core.generators.similar_adversarial import Kind
from explain_core.losses import LossWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One row of Table I.

    Attributes:
        name: of the file, e.g. "single_2_w_tv".
        title: as the paper writes it.
        kind, head_layers: see `SimilarAdversarial`.
        weights: of the losses; every weight is written in the file.
    """

    name: str
    title: str
    kind: Kind
    head_layers: int
    weights: LossWeights


def available() -> tuple[str, ...]:
    """Names of the presets, sorted."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.toml")))


def load(name: str) -> Preset:
    """Read one preset.

    Raises:
        LookupError: there is none of this name; the message lists those there are.
    """
    if name not in available():
        raise LookupError(f"no preset {name!r}; there is: {', '.join(available())}")
    table = tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text())
    return Preset(
        name=name,
        title=table["title"],
        kind=table["kind"],
        head_layers=table["head_layers"],
        weights=LossWeights(**table["weights"]),
    )
