"""A second classifier of another backbone, trained apart: what it says of generated images is no one's own praise.

A counterfactual that turns only the classifier it was made for shows a weakness of that classifier; one that moves a
classifier which had no part in its making shows something of the finding.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explain_core.engine import for_inference
from explain_core.geometry import resized

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Second:
    """A classifier with its threshold, on its own grid.

    Attributes:
        name: for reports.
        network: grey images -> logits; only the first output is used.
        threshold: of the probability.
        size: rows and columns of its input in pixels.
        device: where it runs.
    """

    name: str
    network: Any
    threshold: float
    size: int
    device: torch.device = _CPU

    def on(self, device: torch.device) -> "Second":
        """A copy that runs on a device."""
        network = for_inference(self.network, device) if isinstance(self.network, nn.Module) else self.network
        return replace(self, network=network, device=device)

    @torch.no_grad()
    def decide(self, images: Tensor) -> NDArray[np.int64]:
        """Decisions, 0 or 1, shape (N,), about images in [0, 1], shape (N, 1, S, S), of any size."""
        return np.asarray((self.probabilities(images) >= self.threshold).long().cpu().numpy())

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Of the finding, shape (N,), in images in [0, 1], shape (N, 1, S, S), of any size."""
        x = resized(images.to(self.device), self.size)
        return torch.sigmoid(self.network(x)[:, 0])
