"""What DiffEx found of a classifier: the autoencoder, the directions, and those that were ranked, as one file.

The weights are safetensors; the header says what shape they have and what was ranked. The classifier itself is not in
it: the file belongs to the one whose digest it names.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from explain_core.diffex.directions import Bank, Form
from explain_core.diffex.ranking import Decoding
from explain_core.diffex.semantic import SemanticAutoencoder, SemanticConfig
from explain_core.diffex.subject import Question
from explain_core.diffusion.files import space_named
from explain_core.errors import BundleError
from explain_core.files import write

KEY = "diffex"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One attribute: a direction with its sign, by which images of the other decision are turned.

    Attributes:
        name: as reports call it.
        question: the answer that it makes more probable.
        column: of `ranking.Effects`: twice the direction, one more for a minus.
        length: of its whole change, in standardised codes.
        effect: mean change of the probability of the answer.
        evidence: mean change of its logit.
        flipped: part of the images that it turns alone.
        monotone: part of the images whose evidence rises with every part of the change.
    """

    name: str
    question: Question
    column: int
    length: float
    effect: float
    evidence: float
    flipped: float
    monotone: float

    def step(self, bank: Bank, codes: Tensor, part: float = 1.0) -> Tensor:
        """The change of standardised codes, shape (N, code), by a part of the whole length."""
        sign = 1 - 2 * (self.column % 2)
        change: Tensor = part * sign * self.length * bank(codes)[:, self.column // 2]
        return change


@dataclass(frozen=True, slots=True)
class Attributes:
    """A whole result.

    Attributes:
        model: in eval mode.
        bank: in eval mode.
        ranked: the attributes, by question and then by rank.
        how: changed codes become images like this.
        explains: digest of the weights of the classifier that was explained.
    """

    model: SemanticAutoencoder
    bank: Bank
    ranked: tuple[Attribute, ...]
    how: Decoding
    explains: str

    def of(self, question: Question) -> tuple[Attribute, ...]:
        """Those of one answer, the best first."""
        return tuple(one for one in self.ranked if one.question == question)

    def on(self, device: torch.device) -> "Attributes":
        """The same on a device; the networks are moved."""
        return Attributes(self.model.to(device), self.bank.to(device), self.ranked, self.how, self.explains)


def save_attributes(path: Path, found: Attributes, *, half: bool = True) -> None:
    """Write a result whole or not at all; weights in float16 where they fit, unless `half` is False."""
    bank = found.bank
    told = {
        "space": found.model.space.name,
        "config": asdict(found.model.config),
        "bank": {"learnt": bank.learnt, "form": bank.form, "names": bank.names[bank.learnt :]},
        "ranked": [asdict(one) for one in found.ranked],
        "how": asdict(found.how),
        "explains": found.explains,
    }
    whole = nn.ModuleDict({"model": found.model, "bank": bank})
    state = {name: _small(value) if half else value.contiguous() for name, value in whole.state_dict().items()}
    write(path, save(state, metadata={KEY: json.dumps(told)}))


def _small(value: Tensor) -> Tensor:
    short = value.half() if value.is_floating_point() and value.ndim else value
    return (short if bool(torch.isfinite(short).all()) else value).cpu().contiguous()


def load_attributes(path: Path) -> Attributes:
    """The result of a file, on the CPU in eval mode, in float32.

    Raises:
        BundleError: it is no such file, or its weights have another shape than it says; nothing is loaded then.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})[KEY])
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
        config = _tuples(told["config"], "channels", "attention", "encoder_channels")
        model = SemanticAutoencoder(space_named(told["space"]), SemanticConfig(**config))
        form: Form = told["bank"]["form"]
        names = told["bank"]["names"]
        fixed = torch.zeros(len(names), model.config.code)
        bank = Bank(told["bank"]["learnt"], model.config.code, form=form, fixed=fixed, names=names)
        ranked = tuple(Attribute(**one | {"question": Question(**one["question"])}) for one in told["ranked"])
        how, explains = Decoding(**told["how"]), str(told["explains"])
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise BundleError(f"{path} is no result of DiffEx: {type(error).__name__}: {error}") from error
    whole = nn.ModuleDict({"model": model, "bank": bank})
    own = {name: tuple(value.shape) for name, value in whole.state_dict().items()}
    if other := [name for name in {*own, *shapes} if own.get(name) != shapes.get(name)]:
        raise BundleError(f"{path}: the weights have another shape than the file says, e.g. {min(other)}")
    weights = load_file(path)
    whole.load_state_dict({n: v.float() if v.is_floating_point() else v for n, v in weights.items()})
    whole.eval().requires_grad_(requires_grad=False)
    return Attributes(model, bank, ranked, how, explains)


def _tuples(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return dict(config) | {name: tuple(config[name]) for name in names}
