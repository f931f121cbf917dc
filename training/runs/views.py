"""Images changed a little, in several versions, as a training sees them."""

import torch
from torch import Tensor, nn


def changed(images: Tensor, generator: torch.Generator, *, strongly: bool = False) -> Tensor:
    """Each image turned, moved and enlarged a little; strongly also by two random changes of contrast or shape.

    Never mirrored: the heart is on one side.

    Args:
        images: uint8, shape (N, 1, S, S).
        generator: of the changes.
        strongly: whether by RandAugment too.
    """
    from torchvision.transforms import v2  # noqa: PLC0415 - slow to import

    seed = int(torch.randint(1 << 31, (1,), generator=generator))
    weak = v2.RandomAffine(
        degrees=6, translate=(0.05, 0.05), scale=(1.0, 1.2), interpolation=v2.InterpolationMode.BILINEAR
    )
    steps: list[nn.Module] = [weak, v2.RandAugment(2, 10)] if strongly else [weak]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        change = v2.Compose(steps)
        return torch.stack([change(image) for image in images])
