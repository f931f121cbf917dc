"""Explanation by adversarial perturbation on the perceptual ball (Elliott, Law & Russell, arXiv:1912.09405).

The nearest image across the decision is sought, near in pixels and in the classifier's own activations; the map is
how far each pixel moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from explain_core.blur import gaussian_blur
from explain_core.classifier import Classifier, DecisionRule, look_through_hooks, need_gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class PerceptualPerturbation:
    """How far each pixel moves when the decision for a class is changed within the perceptual ball.

    It minimises (f_c - f_other - value)^2 + gamma * sum over layers of MSE(phi(z), phi(x)) + pixels * MSE(z, x) over z
    by L-BFGS, starting at the image x; z is not held in [0, 1]. One image at a time: the line search would couple a
    batch. The target lies always across the decision: where the class is not decided for, the sign of `value` is
    turned and z is pushed into the class. Whether z gets there depends on `gamma` and on the scale of the logits; the
    map is the change that was the cheapest on the way.

    Settings are the authors' defaults, found for ImageNet classifiers. They run L-BFGS with a fixed step; here a strong
    Wolfe line search keeps it from diverging.

    Attributes:
        rule: what the decision is and what f_other is, see `DecisionRule.margin`.
        value: the margin that z shall have, in logits, for a class that is decided for; below 0 is across.
        gamma: weight of the distance of activations, `Classifier.perceptual_layers`.
        pixels: weight of the distance of pixels.
        iterations: of L-BFGS at most.
        smoothing: standard deviation of the Gaussian on the map as a fraction of the image side; 2 pixels at 224.
    """

    reference: ClassVar[str] = "Elliott et al., Adversarial Perturbations on the Perceptual Ball, arXiv:1912.09405"
    needs_gradients: ClassVar[bool] = True
    trained_by: ClassVar[str | None] = None
    slow: ClassVar[bool] = True
    unit: ClassVar[str] = "|z - x|, luminance 0 to 1"

    rule: DecisionRule = field(default_factory=DecisionRule)
    value: float = -2.0
    gamma: float = 1e4
    pixels: float = 1.0
    iterations: int = 200
    smoothing: float = 2 / 224

    def objective(
        self, margin: Tensor, target: Tensor, phi: Sequence[tuple[Tensor, Tensor]], distance: Tensor
    ) -> Tensor:
        """The scalar that is minimised for one image.

        Args:
            margin: f_c - f_other of z, shape (1,).
            target: what it shall be, shape (1,).
            phi: the activations of z and of x, per layer, of any shape.
            distance: MSE(z, x), a scalar.
        """
        perceptual = sum((functional.mse_loss(of_z, of_x) for of_z, of_x in phi), torch.zeros_like(distance))
        return (margin - target).square().sum() + self.gamma * perceptual + self.pixels * distance

    def perturbed(self, classifier: Classifier, image: Tensor, chosen: Tensor) -> Tensor:
        """The image z of one image x, both of shape (1, 1, S, S), for the class `chosen`, shape (1,)."""
        with torch.no_grad():
            logits, phi_x, _ = look_through_hooks(classifier, classifier.perceptual_layers, image)
            decided = self.rule.margin(logits, chosen) >= 0
            target = torch.where(decided, self.value, -self.value)
        z = image.detach().clone().requires_grad_()
        optimiser = torch.optim.LBFGS([z], max_iter=self.iterations, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            with torch.enable_grad():
                logits, phi_z, _ = look_through_hooks(classifier, classifier.perceptual_layers, z)
                distance = functional.mse_loss(z, image)
                margin = self.rule.margin(logits, chosen)
                loss = self.objective(margin, target, list(zip(phi_z, phi_x, strict=True)), distance)
                (z.grad,) = torch.autograd.grad(loss, z)
            return loss.detach()

        optimiser.step(closure)
        return z.detach()

    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps of |z - x| after smoothing, shape (N, 1, S, S), in units of the image; see `Method`."""
        need_gradients(classifier, "perceptual_perturbation")
        z = torch.cat(
            [
                self.perturbed(classifier, image[None], chosen[None])
                for image, chosen in zip(images, classes, strict=True)
            ]
        )
        moved = (z - images.detach()).square().mean(dim=1, keepdim=True).sqrt()
        return gaussian_blur(moved, self.smoothing * images.shape[-1])


PLUGIN = PerceptualPerturbation
