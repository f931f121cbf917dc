"""The smallest change that reverses a decision, sought for one image by proximal gradient steps, without a generator.

The difference d lives on a coarse grid and is brought to the image's bilinearly. A step moves it along the gradient of
the decision at x + d, seen under noise and a small shift, with the gradient scaled to a largest value of 1 for each
image, and then shrinks every cell towards 0 (soft threshold): iterative shrinkage-thresholding for an L1 penalty, Beck
and Teboulle 2009, section 2. E(x) = |d|. It is what a trained generator approximates, and a control for one.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from explain_core.classifier import Classifier, DecisionRule, need_gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """Proximal steps from no change at all.

    Attributes:
        steps: how many.
        size: length of a step, in luminance.
        threshold: share of a step's largest change below which a cell is drawn back to 0.
        stride: pixels of the image a cell of the difference.
        noise: largest standard deviation of the noise under which the decision is looked at.
        shift: largest shift in pixels.
        seed: of noise and shifts.
        rule: how the classifier's logits become a decision.
    """

    reference: ClassVar[str] = "Beck and Teboulle, SIAM J. Imaging Sciences 2(1), 2009, 183-202"
    needs_gradients: ClassVar[bool] = True
    trained_by: ClassVar[str | None] = None
    slow: ClassVar[bool] = True
    unit: ClassVar[str] = "|x_a - x|, luminance 0 to 1"

    steps: int = 40
    size: float = 0.02
    threshold: float = 0.15
    stride: int = 4
    noise: float = 0.2
    shift: int = 4
    seed: int = 0
    rule: DecisionRule = field(default_factory=DecisionRule)

    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps of the images' shape, (N, 1, S, S); see `explain_core.method.Method`.

        Raises:
            GradientsNeeded: the classifier has no gradients.
        """
        need_gradients(classifier, "optimum")
        return self.difference(classifier, images.detach(), classes).abs()

    def difference(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """x_a - x, shape (N, 1, S, S), of grey images in [0, 1] of that shape."""
        side = images.shape[-1] // self.stride
        with torch.no_grad():
            logits = classifier(images)
            decided = self.rule.decide(logits, classes)
        target = decided if self.rule.exclusive else classes
        away = torch.ones_like(decided) if self.rule.exclusive else decided
        towards = torch.where(away > 0, -1.0, 1.0)
        change = images.new_zeros(len(images), 1, side, side)
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            change.requires_grad_()
            with torch.enable_grad():
                seen = self._seen(images, change, generator)
                gain = (towards * self.rule.margin(classifier(seen), target)).sum()
                (gradient,) = torch.autograd.grad(gain, change)
            largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
            moved = change.detach() + self.size * gradient / largest
            change = moved.sign() * (moved.abs() - self.size * self.threshold).clamp(min=0)
        return self._wide(change, images)

    def _wide(self, change: Tensor, images: Tensor) -> Tensor:
        wide = functional.interpolate(change, images.shape[-2:], mode="bilinear", align_corners=False)
        return (images + wide).clamp(0, 1) - images

    def _seen(self, images: Tensor, change: Tensor, generator: torch.Generator) -> Tensor:
        """X + d as the classifier sees it: all images alike, so that a batch is explained as its images one by one."""
        x = images + self._wide(change, images)
        down, right = (int(v) for v in torch.randint(-self.shift, self.shift + 1, (2,), generator=generator))
        strength = float(torch.rand((), generator=generator)) * self.noise
        noise = torch.randn(images.shape[-2:], generator=generator).to(images.device) * strength
        return torch.roll(x, (down, right), dims=(-2, -1)) + noise


PLUGIN = Optimum
