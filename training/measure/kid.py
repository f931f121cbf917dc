"""Kernel Inception Distance between two sets of images, by the features of a classifier of ours.

Binkowski et al., arXiv:1801.01401: the unbiased squared maximum mean discrepancy with a cubic kernel (torchmetrics).
The features are what a classifier's last layer reads, not Inception's, which knows no radiograph.
"""

import warnings

import torch
from torch import Tensor, nn

BATCH, SUBSETS = 64, 50


class Features(nn.Module):
    """What the last linear layer of a classifier reads, shape (N, K), of images in [0, 1], shape (N, 1, S, S).

    Raises:
        ValueError: the network has no linear layer.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if not layers:
            raise ValueError("KID needs a classifier that ends with a linear layer")
        self.network, self._last = network, layers[-1]
        self.num_features = self._last.in_features

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        seen: list[Tensor] = []
        hook = self._last.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
        try:
            self.network(images)
        finally:
            hook.remove()
        return seen[0]


@torch.no_grad()
def kernel_distance(network: nn.Module, real: Tensor, made: Tensor, *, seed: int = 0) -> float:
    """KID of two sets of images in [0, 1], shape (N, 1, S, S) each; about 0 for sets of one distribution.

    Args:
        network: whose features are compared, in eval mode.
        real: the one set.
        made: the other.
        seed: of the subsets over which the estimate is averaged.
    """
    from torchmetrics.image.kid import KernelInceptionDistance  # noqa: PLC0415 - slow to import

    size = min(len(real), len(made)) // 2
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        distance = KernelInceptionDistance(feature=Features(network), subsets=SUBSETS, subset_size=size)
        for images, is_real in ((real, True), (made, False)):
            for part in images.split(BATCH):
                distance.update(part, real=is_real)
        return float(distance.compute()[0])
