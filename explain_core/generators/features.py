"""Similar and adversarial images by a light decoder on the frozen classifier's own features.

A UNet on pixels has to learn again what the classifier knows. Here features of several strides are joined from coarse
to fine, each by one 1x1 convolution, a sum, and a depthwise-separable 5x5; heads read the differences x_s - x and
x_a - x at the stride of the finest features that are used, and these are brought to the image's grid bilinearly. There
is no layer at full resolution. The images are those of equation (5) of arXiv:2012.07332; the decoder is this project's.

Gated, both differences are multiplied by where the classifier has evidence, so that nothing changes anywhere else. What
a positive shows is taken away wherever there is evidence; what a negative lacks is added where suspicion is greatest.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from explain_core.classifier import Look
from explain_core.errors import FeaturesNeeded

KIND = "features"
_KERNEL = 5
_NEGATIVE = 2.0


def gate(evidence: Tensor, decisions: Tensor) -> Tensor:
    """Where the classifier has evidence, for one output: sigmoid(z), scaled to a largest value of 1 an image.

    It is squared for the decision 0: suspicion is faint and wide there, and what is added is bound closer to its peak.

    Args:
        evidence: logits z, shape (N, 1, h, w).
        decisions: the classifier's, int64, shape (N,).

    Returns:
        in [0, 1], same shape.
    """
    logs = functional.logsigmoid(evidence)  # of logits far below 0 the sigmoids themselves would be 0
    power = torch.where(decisions == 0, _NEGATIVE, 1.0).to(logs.dtype)[:, None, None, None]
    return (power * (logs - logs.amax(dim=(-2, -1), keepdim=True))).exp()


class FeatureGenerators(nn.Module):
    """Grey images in [0, 1], shape (N, 1, S, S), what the classifier saw of them, and its decisions -> (x_s, x_a).

    Args:
        channels: of the classifier's features that are read, the finest first; the first one gives the differences'
            grid.
        evidence: whether the classifier decides by maps; the one of the output `target` is then read too.
        width: channels of the decoder.
        gated: whether the differences are bound to the evidence of the output `target`.
        target: the classifier's output that is explained.
        decisions: heads for each image of the pair, one for each decision of the classifier.

    Raises:
        ValueError: gated without evidence.
    """

    reads_features = True

    def __init__(
        self,
        channels: Sequence[int],
        *,
        evidence: bool = True,
        width: int = 48,
        gated: bool = True,
        target: int = 0,
        decisions: int = 2,
    ) -> None:
        super().__init__()
        if gated and not evidence:
            raise ValueError("gated generators need a classifier that decides by maps of evidence; set gated = false")
        self.gated, self.target, self.decisions = gated, target, decisions
        self.channels = tuple(channels)
        self.enter = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.enter_evidence = nn.Conv2d(1, width, 1) if evidence else None
        self.join = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, _KERNEL, padding=_KERNEL // 2, groups=width),
                nn.Conv2d(width, width, 1),
                nn.ReLU(),
            )
            for _ in channels
        )
        self.head = nn.Conv2d(width, 2 * decisions, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def differences(self, seen: Look, decisions: Tensor) -> Tensor:
        """x_s - x and x_a - x on the grid of the finest features that are read, shape (N, 2, h, w).

        Raises:
            FeaturesNeeded: the classifier saw fewer features than are read.
        """
        features = seen.features[-len(self.channels) :]
        found = tuple(one.shape[1] for one in features)
        if found != self.channels:
            raise FeaturesNeeded(
                f"these generators read features of {self.channels} channels, the classifier has {found}"
            )
        maps = self._evidence(seen)
        y: Tensor | None = None
        for index in reversed(range(len(features))):
            here = self.enter[index](features[index])
            if y is not None:
                here = here + functional.interpolate(y, here.shape[-2:], mode="bilinear", align_corners=False)
            if self.enter_evidence is not None and here.shape[-2:] == maps.shape[-2:]:
                here = here + self.enter_evidence(maps)
            y = self.join[index](here)
        heads = self.head(y).unflatten(1, (self.decisions, 2))
        chosen = decisions.clamp(max=self.decisions - 1)
        found_: Tensor = heads[torch.arange(len(heads), device=heads.device), chosen]
        if self.gated:
            found_ = found_ * self._opened(maps, decisions, found_.shape[-2:])
        return found_

    def weights(self, seen: Look, decisions: Tensor, size: Sequence[int]) -> Tensor | None:
        """The gate on a grid of `size` rows and columns, shape (N, 1, *size); None for generators without one."""
        return self._opened(self._evidence(seen), decisions, size) if self.gated else None

    def _opened(self, maps: Tensor, decisions: Tensor, size: Sequence[int]) -> Tensor:
        opened = gate(maps.float(), decisions)
        return functional.interpolate(opened, tuple(size), mode="bilinear", align_corners=False)

    def _evidence(self, seen: Look) -> Tensor:
        """The map of the explained output, shape (N, 1, h, w); without any cells where none is read."""
        if self.enter_evidence is None:
            return seen.logits.new_zeros(len(seen.logits), 1, 0, 0)
        if seen.evidence is None:
            raise FeaturesNeeded("these generators read the map that a classifier decides by, and this one has none")
        return seen.evidence[:, self.target : self.target + 1]

    def forward(self, x: Tensor, decisions: Tensor, seen: Look | None = None) -> tuple[Tensor, Tensor]:
        """Make both images, unclipped.

        Args:
            x: grey images in [0, 1], shape (N, 1, S, S).
            decisions: the classifier's decisions y(x), int64, shape (N,).
            seen: what the classifier saw of `x`.

        Raises:
            FeaturesNeeded: nothing, or not what these generators read.
        """
        if seen is None:
            raise FeaturesNeeded(
                "these generators read what the classifier saw; give explain_core.classifier.look(...)"
            )
        found = self.differences(seen, decisions)
        wide = functional.interpolate(found, x.shape[-2:], mode="bilinear", align_corners=False)
        return x + wide[:, :1], x + wide[:, 1:]

    @torch.no_grad()
    def strengthen(self, decision: int, factor: float) -> None:
        """Multiply x_a - x by a factor wherever the decision is this one; x_s stays."""
        row = 2 * decision + 1
        self.head.weight[row] *= factor
        self.head.bias[row] *= factor  # type: ignore[index]

    def paired_parameters(self) -> tuple[()]:
        """None: the two differences share all but their heads' rows, so equation (8) does not apply."""
        return ()
