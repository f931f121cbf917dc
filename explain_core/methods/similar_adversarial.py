"""Explanation by similar and adversarial generators: equation (3) of arXiv:2012.07332, E(x) = |x_s - x_a|."""

from collections.abc import Callable

from torch import Tensor

REFERENCE = "Charachon et al., Combining Similarity and Adversarial Learning, arXiv:2012.07332"

Generators = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def similar_adversarial(images: Tensor, decisions: Tensor, generators: Generators) -> tuple[Tensor, Tensor, Tensor]:
    """Explain a batch of grey images in [0, 1], shape (N, 1, S, S).

    Args:
        images: what to explain.
        decisions: the classifier's decisions about them, 0 or 1, shape (N,).
        generators: images and decisions -> (x_s, x_a), unclipped.

    Returns:
        The maps |x_s - x_a|, the similar images x_s and the adversarial images x_a, clipped to [0, 1]; all of the
        images' shape.
    """
    raw_s, raw_a = generators(images, decisions)
    x_s, x_a = raw_s.clamp(0, 1), raw_a.clamp(0, 1)
    return (x_s - x_a).abs(), x_s, x_a


PLUGIN = similar_adversarial
