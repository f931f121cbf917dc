"""Kernel Inception Distance between two sets of images, by the features of a classifier of ours.

Binkowski et al., arXiv:1801.01401: the unbiased squared maximum mean discrepancy with a cubic kernel (torchmetrics).
The features are what a classifier's last layer reads, not Inception's, which knows no radiograph.
"""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn

from explain_core.classifier import LastFeatures

BATCH, SUBSETS = 64, 50


class Distance(NamedTuple):
    """A KID with how far it moves from one choice of images to another.

    Attributes:
        value: the mean over `SUBSETS` subsets of half the images.
        spread: their standard deviation.
    """

    value: float
    spread: float


@torch.no_grad()
def kernel_distance(network: nn.Module, real: Tensor, made: Tensor) -> Distance:
    """KID of two sets of images in [0, 1], shape (N, 1, S, S) each; about 0 for sets of one distribution.

    Args:
        network: whose features are compared, in eval mode.
        real: the one set.
        made: the other.
    """
    from torchmetrics.image.kid import KernelInceptionDistance  # noqa: PLC0415 - slow to import

    size = min(len(real), len(made)) // 2
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        distance = KernelInceptionDistance(feature=LastFeatures(network), subsets=SUBSETS, subset_size=size)
        for images, is_real in ((real, True), (made, False)):
            for part in images.split(BATCH):
                distance.update(part, real=is_real)
        value, spread = distance.compute()
        return Distance(float(value), float(spread))
