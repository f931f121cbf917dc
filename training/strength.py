"""How strong the adversarial change is: for each decision as weak as still reverses nine in ten, for sure.

The loss trades a decision reversed against a change that is small, one weight for all images, and what it finds is
stronger than it need be for one decision and weaker for the other. What reverses a decision with much to spare is
reversed by any part of it too, and then the map does not tell which part mattered. The head that makes x_a - x is
linear, so the factor goes into its weights and costs nothing afterwards.
"""

import math
from typing import cast

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from explain_core.classifier import Classifier, DecisionRule
from explain_core.engine import for_inference
from explain_core.generators.features import FeatureGenerators
from explain_core.generators.kinds import seen_by

SHARE = 0.9
LEAST, MOST, HALVINGS = 0.25, 1.25, 7
_BATCH = 32


@torch.no_grad()
def measure(
    network: FeatureGenerators,
    classifier: nn.Module,
    rule: DecisionRule,
    images: Tensor,
    device: torch.device,
    share: float = SHARE,
) -> dict[int, float]:
    """The least factor on x_a - x that reverses `share` of the decisions, for each decision that occurs.

    So many must be reversed that the lower bound of the share, one-sided at 95 % (Wilson 1927,
    doi:10.1080/01621459.1927.10502953), is `share`: what holds on these patients should hold on others. The factor is
    sought by halving between `LEAST` and `MOST`, for a larger change mostly reverses more. A decision of which even
    `MOST` reverses fewer, or that too few images have to show it, is left out: its change stays as trained.

    Args:
        network: the generators as trained.
        classifier: what they explain, tempered.
        rule: how its logits become a decision.
        images: of validation patients, uint8, shape (N, 1, S, S).
        device: where it runs.
        share: of the images of a decision.
    """
    ready, made = for_inference(classifier, device), for_inference(network, device)

    def decided(x: Tensor, logits: Tensor) -> Tensor:
        return rule.decide(logits, torch.zeros(len(x), dtype=torch.long, device=device))

    def enough(factor: float, rows: Tensor) -> bool:
        found = []
        for part in rows.split(_BATCH):
            x = images[part].to(device).float() / 255
            seen = seen_by(made, cast("Classifier", ready), x)
            y = decided(x, seen.logits)
            changed = x + factor * (made(x, y, seen)[1].float() - x)
            found.append((decided(x, ready(changed.clamp(0, 1))) != y).cpu())
        shown = binomtest(int(torch.cat(found).sum()), len(rows), alternative="greater").proportion_ci(0.95, "wilson")
        return bool(shown.low >= share)

    floats = (chunk.to(device).float() / 255 for chunk in images.split(_BATCH))
    decisions = torch.cat([decided(x, ready(x)).cpu() for x in floats])
    factors = {}
    for decision in decisions.unique().tolist():
        rows, low, high = (decisions == decision).nonzero()[:, 0], LEAST, MOST
        if not enough(MOST, rows):
            continue
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if enough(middle, rows) else (middle, high)
        factors[int(decision)] = math.ceil(high * 1000) / 1000  # rounded up: it must not become too weak
    return factors
