"""The generators of similar and adversarial images of arXiv:2012.07332, section III.

    single   Single_k: one trunk, two heads of k convolutions (k = 1 or 2)
    duo      two generators that share nothing, each with a one-layer head
    naive    the adversarial generator alone, equation (2); the similar image is the image itself

Heads are linear convolutions without activation, so that |x_s - x_a| of Single is a linear read-out of shared
features. `forward` returns the images unclipped; clip them to [0, 1] outside.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from explain_core.classifier import Look
from explain_core.generators.unet import UNet

Kind = Literal["single", "duo", "naive"]
Output = Literal["plain", "identity"]


def _head(inputs: int, count: int) -> nn.Sequential:
    """`count` x Conv3x3, then Conv1x1 to one channel; no normalisation, no activation (Single_2: 32, 16, 1)."""
    layers: list[nn.Module] = []
    channels = inputs
    for index in range(count):
        layers.append(nn.Conv2d(channels, inputs >> index, 3, padding=1))
        channels = inputs >> index
    layers.append(nn.Conv2d(channels, 1, 1))
    return nn.Sequential(*layers)


class SimilarAdversarial(nn.Module):
    """Grey images in [0, 1], shape (N, 1, S, S), and decisions -> (x_s, x_a), each (N, 1, S, S), unclipped.

    Args:
        filters: channels of a trunk per level.
        kind: which of the paper's architectures.
        head_layers: 3x3 convolutions per head: k of Single_k.
        output: "plain", the heads' output is the image as in the paper; or "identity", a named variant whose heads
            start at zero and are added to the input, so that training starts at x_s = x_a = x.
        dropout: probability in the encoder, in training.
        decisions: 1 for one adversarial head as in the paper; or a head for each of this many decisions of the
            classifier, a named variant: the image's own decision chooses the head.

    Raises:
        ValueError: no such kind or output.
    """

    reads_features = False

    def __init__(
        self,
        filters: Sequence[int],
        *,
        kind: Kind = "single",
        head_layers: int = 2,
        output: Output = "plain",
        dropout: float = 0.0,
        decisions: int = 1,
    ) -> None:
        super().__init__()
        if kind not in get_args(Kind) or output not in get_args(Output):
            raise ValueError(f"kind is one of {get_args(Kind)} and output of {get_args(Output)}: {kind!r}, {output!r}")
        self.trunk = UNet(filters, dropout=dropout)
        self.similar_trunk = UNet(filters, dropout=dropout) if kind == "duo" else None
        self.similar = _head(self.trunk.channels, head_layers) if kind != "naive" else None
        self.adversarial = nn.ModuleList(_head(self.trunk.channels, head_layers) for _ in range(decisions))
        self.output = output
        self._start_together()

    @property
    def conditioned(self) -> bool:
        """Whether `forward` looks at the decisions."""
        return len(self.adversarial) > 1

    def _start_together(self) -> None:
        """Start both generators at the same weights: two independent ones are far apart by equation (8)."""
        first = self.adversarial[0]
        for head in (*self.adversarial[1:], *([self.similar] if self.similar is not None else [])):
            head.load_state_dict(first.state_dict())
        if self.similar_trunk is not None:
            self.similar_trunk.load_state_dict(self.trunk.state_dict())
        if self.output == "identity":
            for head in self._heads():
                for parameter in head[-1].parameters():
                    nn.init.zeros_(parameter)

    def _heads(self) -> list[nn.Sequential]:
        heads = [head for head in self.adversarial if isinstance(head, nn.Sequential)]
        return [*heads, self.similar] if self.similar is not None else heads

    def forward(self, x: Tensor, decisions: Tensor, seen: Look | None = None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Make both images.

        Args:
            x: grey images in [0, 1], shape (N, 1, S, S).
            decisions: the classifier's decisions y(x), int64, shape (N,); used by the conditioned variant only.
            seen: what the classifier saw; generators on pixels do not look at it.
        """
        features = self.trunk(x)
        base = x if self.output == "identity" else torch.zeros_like(x)
        if self.conditioned:
            adversarial = torch.zeros_like(x, dtype=features.dtype)
            for decision, head in enumerate(self.adversarial):
                rows = decisions == decision
                if rows.any():
                    adversarial[rows] = head(features[rows])
        else:
            adversarial = self.adversarial[0](features)
        if self.similar is None:
            return x, base + adversarial
        if self.similar_trunk is not None:
            features = self.similar_trunk(x)
        return base + self.similar(features), base + adversarial

    def paired_parameters(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Corresponding parameters of the two generators, for the weight distance of equation (8).

        Of Single only the heads are paired, of Duo all parameters, of the naive generator none.
        """
        if self.similar is None:
            return
        if self.similar_trunk is not None:
            yield from zip(self.similar_trunk.parameters(), self.trunk.parameters(), strict=True)
        for head in self.adversarial:
            yield from zip(self.similar.parameters(), head.parameters(), strict=True)
