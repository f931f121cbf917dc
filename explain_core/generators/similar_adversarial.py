"""The generators of similar and adversarial images: one trunk, two heads (Single_k of arXiv:2012.07332).

Both heads are linear convolutions without activation, so the explanation |x_s - x_a| is a linear read-out of shared
features. `forward` returns the images unclipped; clip them to [0, 1] outside.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from explain_core.generators.unet import UNet

IDENTITY, PLAIN = "identity", "plain"


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
        filters: channels of the trunk per level.
        head_layers: 3x3 convolutions per head: k of Single_k.
        output: "plain", the heads' output is the image as in the paper; or "identity", a named variant whose heads
            start at zero and are added to the input, so that training starts at x_s = x_a = x.
        dropout: probability in the encoder, in training.
        conditioned: one adversarial head for each decision of the classifier instead of one for both, a named
            variant: the image's own decision chooses the head.
    """

    def __init__(
        self,
        filters: Sequence[int],
        head_layers: int = 2,
        output: str = PLAIN,
        dropout: float = 0.0,
        *,
        conditioned: bool = False,
    ) -> None:
        super().__init__()
        if output not in {PLAIN, IDENTITY}:
            raise ValueError(f"output is {PLAIN!r} or {IDENTITY!r}, not {output!r}")
        self.trunk = UNet(filters, dropout=dropout)
        self.similar = _head(self.trunk.channels, head_layers)
        self.adversarial = nn.ModuleList(_head(self.trunk.channels, head_layers) for _ in range(1 + conditioned))
        for head in self.adversarial:
            head.load_state_dict(self.similar.state_dict())
        self.output = output
        if output == IDENTITY:
            for head in (self.similar, *self.adversarial):
                last = head[-1]
                assert isinstance(last, nn.Conv2d)  # noqa: S101 - _head ends with one
                nn.init.zeros_(last.weight)
                if last.bias is not None:
                    nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, decisions: Tensor) -> tuple[Tensor, Tensor]:
        """Make both images.

        Args:
            x: grey images in [0, 1], shape (N, 1, S, S).
            decisions: the classifier's decisions y(x), 0 or 1, shape (N,); used by the conditioned variant only.
        """
        features = self.trunk(x)
        similar = self.similar(features)
        if len(self.adversarial) == 1:
            adversarial = self.adversarial[0](features)
        else:
            adversarial = torch.zeros_like(similar)
            for decision, head in enumerate(self.adversarial):
                rows = decisions == decision
                if rows.any():
                    adversarial[rows] = head(features[rows])
        base = x if self.output == IDENTITY else torch.zeros_like(x)
        return base + similar, base + adversarial

    def paired_parameters(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Corresponding parameters of the two generators, for the weight distance of equation (8)."""
        for head in self.adversarial:
            yield from zip(self.similar.parameters(), head.parameters(), strict=True)
