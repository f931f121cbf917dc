"""Two trunks of `evidence_lite0` that decide together, by the mean of their maps.

Trained apart, on other images and from other draws, they err apart: the mean of their maps decides and localises better
than either, and what changes both is less of an accident (Lakshminarayanan et al., arXiv:1612.01474, on ensembles).
Since a map is linear in what it is read from, the mean of two maps is one map that is read from both trunks at once.
"""

import torch
from torch import Tensor, nn

from explain_core.classifiers.evidence_lite0 import DROPOUT, LAYERS, WIDTH, DecidesByMap, Decision, EvidenceLite0, Trunk

MEMBERS = 2


class _Beside(nn.Module):
    """Channels of one member after those of the other; a layer, so that hooks find them."""

    def forward(self, *several: Tensor) -> Tensor:
        return torch.cat(several, dim=1)


class EvidencePair(DecidesByMap):
    """Grey images, float in [0, 1], shape (N, 1, S, S) -> logits, shape (N, outputs).

    Args:
        outputs: number of logits; the first one is the finding that is decided.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.trunks = nn.ModuleList(Trunk() for _ in range(MEMBERS))
        self.beside = nn.ModuleList(_Beside() for _ in LAYERS)
        self.read = _Beside()
        self.dropout = nn.Dropout(DROPOUT)
        self.output = Decision(outputs, MEMBERS * WIDTH)

    @classmethod
    @torch.no_grad()
    def of(cls, *members: EvidenceLite0) -> "EvidencePair":
        """The pair whose maps, and biases, are the means of its members'.

        Raises:
            ValueError: not two members of equally many outputs.
        """
        outputs = {len(member.output.bias) for member in members}
        if len(members) != MEMBERS or len(outputs) != 1:
            raise ValueError(f"a pair is of {MEMBERS} members with the same outputs, got {len(members)} of {outputs}")
        made = cls(outputs.pop())
        for trunk, member in zip(made.trunks, members, strict=True):
            own = member.state_dict()
            trunk.load_state_dict({name: own[name] for name in trunk.state_dict()})
        made.output.weight.copy_(torch.cat([member.output.weight for member in members], dim=1) / MEMBERS)
        for name in ("level", "bias"):
            values = torch.stack([getattr(member.output, name) for member in members])
            getattr(made.output, name).copy_(values.mean(dim=0))
        return made

    @property
    def perceptual_layers(self) -> tuple[nn.Module, ...]:
        """The activations after the depthwise convolutions of the 16 blocks of each member."""
        return tuple(layer for trunk in self._members for layer in trunk.perceptual_layers)

    @property
    def cam_layer(self) -> nn.Module:
        """What the maps are read from, shape (N, 192, S/16, S/16): where Grad-CAM looks."""
        return self.read

    @property
    def feature_layers(self) -> tuple[nn.Module, ...]:
        """Both members' features of stride 4, 8, 16 and 32, with 48, 80, 224 and 640 channels."""
        return tuple(self.beside)

    @property
    def _members(self) -> tuple[Trunk, ...]:
        return tuple(trunk for trunk in self.trunks if isinstance(trunk, Trunk))

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Grey images, shape (N, 1, S, S) -> outputs of `feature_layers`, the finest first."""
        found = [trunk.features(x) for trunk in self._members]
        return tuple(layer(*several) for layer, *several in zip(self.beside, *found, strict=True))

    def join(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Features of stride 16 and 32 -> what the maps are read from, before the activation."""
        halves = zip(self._members, fine.chunk(MEMBERS, 1), coarse.chunk(MEMBERS, 1), strict=True)
        joined: Tensor = self.read(*(trunk.join(*both) for trunk, *both in halves))
        return joined


PLUGIN = EvidencePair
