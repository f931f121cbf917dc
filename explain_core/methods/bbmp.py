"""Explanation by meaningful perturbation (Fong & Vedaldi 2017, arXiv:1704.03296).

The smallest smooth part of the image is sought whose blurring takes the class's probability away (the paper's
deletion game). The mask m is 1 where the image is kept and 0 where it is blurred; the map is 1 - m.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from explain_core.blur import gaussian_blur
from explain_core.classifier import Classifier, DecisionRule, need_gradients, score

_PUBLISHED_SIZE = 28
_SMALLEST_SIZE = 7
_RADII = 33


def penalties(mask: Tensor, sparsity: float, smoothness: float, beta: float) -> Tensor:
    """What a mask costs apart from the probability: sparsity * |1 - m|_1 + smoothness * TV_beta(m).

    Both sums are taken as on the published mask of 28 x 28 pixels: the cost of a mask is that of the same mask, as a
    function of the place in the image, at 28 x 28.

    Args:
        mask: in [0, 1], shape (N, 1, M, M).
        sparsity: weight of the sum of 1 - m.
        smoothness: weight of the sum of |difference of neighbours| ** beta, down and across.
        beta: exponent of the total variation.

    Returns:
        One cost per image, shape (N,).
    """
    ratio = mask.shape[-1] / _PUBLISHED_SIZE
    deleted = (1 - mask).abs().sum(dim=(1, 2, 3)) / ratio**2
    down = mask.diff(dim=-2).abs().pow(beta).sum(dim=(1, 2, 3))
    across = mask.diff(dim=-1).abs().pow(beta).sum(dim=(1, 2, 3))
    return sparsity * deleted + smoothness * math.pow(ratio, beta - 2) * (down + across)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bbmp:
    """Where the image must be blurred for the probability of a class to fall.

    It explains the score of the class, whatever the decision: for an image whose probability is low already, little
    is deleted and the map is close to zero. All images of a batch are optimised at once in one tensor; Adam works
    element by element and the shifts are the same for every image, so no image influences another.

    Settings are the paper's (its section 4 and the authors' code) unless noted; lengths are fractions of the image
    side, the published pixels over 224.

    Attributes:
        rule: how logits become the probability that is minimised.
        mask_size: mask pixels per side, an int capped by the image, or a float, a fraction of the image side but at
            least 7. The default is 56 at 224 pixels, as in arXiv:2012.07332; Fong & Vedaldi have 28.
        iterations, learning_rate: of Adam.
        sparsity: weight of the l1 norm of 1 - m, see `penalties`.
        smoothness: weight of the total variation, see `penalties`.
        beta: exponent of the total variation.
        blur: standard deviation of the Gaussian that deletes, 10 pixels.
        mask_blur: standard deviation of the Gaussian on the enlarged mask, 5 pixels.
        jitter: largest shift of the image under the mask in each iteration, 2 pixels: the paper's range of 4, centred.
        circle: True starts at the smallest centred circle whose blurring removes 99 % of what blurring everything
            removes; False starts at the whole image kept.
        seed: of the shifts.
    """

    reference: ClassVar[str] = "Fong & Vedaldi, Interpretable Explanations of Black Boxes, arXiv:1704.03296"
    needs_gradients: ClassVar[bool] = True
    trained_by: ClassVar[str | None] = None
    slow: ClassVar[bool] = True
    unit: ClassVar[str] = "share of blur that the decision needs, 0 to 1"

    rule: DecisionRule = field(default_factory=DecisionRule)
    mask_size: float = 0.25
    iterations: int = 300
    learning_rate: float = 0.1
    sparsity: float = 1e-4
    smoothness: float = 1e-2
    beta: float = 3.0
    blur: float = 10 / 224
    mask_blur: float = 5 / 224
    jitter: float = 2 / 224
    circle: bool = True
    seed: int = 0

    def size(self, side: int) -> int:
        """Mask pixels per side for images of `side` pixels."""
        if isinstance(self.mask_size, int):
            return min(self.mask_size, side)
        return min(max(round(self.mask_size * side), _SMALLEST_SIZE), side)

    def enlarge(self, mask: Tensor, side: int) -> Tensor:
        """A mask, shape (N, 1, M, M), on the image's grid, shape (N, 1, side, side): bilinear, then blurred."""
        enlarged = functional.interpolate(mask, (side, side), mode="bilinear", align_corners=False)
        return gaussian_blur(enlarged, self.mask_blur * side)

    def shifts(self, side: int) -> Iterator[tuple[int, int]]:
        """Row and column of the image's corner in each iteration, 0 to twice the largest shift in pixels."""
        largest = round(self.jitter * side)
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.iterations):
            row, column = torch.randint(0, 2 * largest + 1, (2,), generator=generator).tolist()
            yield row, column

    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps 1 - m in [0, 1], shape (N, 1, S, S); see `Method`."""
        need_gradients(classifier, "bbmp")
        side = images.shape[-1]
        largest = round(self.jitter * side)
        both = torch.cat([images, gaussian_blur(images, self.blur * side)], dim=1).detach()
        both = functional.pad(both, (largest, largest, largest, largest), mode="replicate")

        def probability(mask: Tensor, row: int = largest, column: int = largest) -> Tensor:
            image, blurred = both[..., row : row + side, column : column + side].split(1, dim=1)
            kept = self.enlarge(mask, side)
            return score(self.rule.probabilities(classifier(image * kept + blurred * (1 - kept))), classes)

        shape = (len(images), 1, self.size(side), self.size(side))
        mask = torch.ones(shape, device=images.device)
        if self.circle:
            mask = smallest_circles(probability, mask)
        mask.requires_grad_()
        optimiser = torch.optim.Adam([mask], self.learning_rate)
        for row, column in self.shifts(side):
            with torch.enable_grad():
                costs = probability(mask, row, column) + penalties(mask, self.sparsity, self.smoothness, self.beta)
                (mask.grad,) = torch.autograd.grad(costs.sum(), mask)
            optimiser.step()
            with torch.no_grad():
                mask.clamp_(0, 1)
        return (1 - self.enlarge(mask.detach(), side)).clamp(min=0)


@torch.no_grad()
def smallest_circles(probability: Callable[[Tensor], Tensor], kept: Tensor) -> Tensor:
    """Where the optimisation starts: for each image the smallest centred circle that takes 99 % of the fall.

    Args:
        probability: masks, shape (N, 1, M, M), -> the class's probability, shape (N,).
        kept: masks that keep everything: ones, shape (N, 1, M, M).

    Returns:
        Masks, 0 in the circle and 1 outside, of the shape of `kept`. Nothing is deleted where nothing can fall.
    """
    size = kept.shape[-1]
    places = (torch.arange(size, device=kept.device) + 0.5) / size - 0.5
    distance = torch.hypot(places[:, None], places[None, :])
    whole, blurred = probability(kept), probability(torch.zeros_like(kept))
    enough = whole - 0.99 * (whole - blurred)
    start = torch.zeros_like(kept)
    for step in reversed(range(_RADII)):
        radius = math.sqrt(0.5) * step / (_RADII - 1)
        circle = (distance >= radius).to(kept.dtype).expand_as(kept)
        reached = probability(circle) <= enough
        start = torch.where(reached[:, None, None, None], circle, start)
    return start


PLUGIN = Bbmp
