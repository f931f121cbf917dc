"""What the classifiers that are read whole from a file share: no gradients, no layers, and a trial run."""

from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from explain_core.classifier import Classifier
from explain_core.errors import BundleError, GradientsNeeded


class LogitsOnly:
    """What a classifier says that can be asked for logits and for nothing else."""

    differentiable: ClassVar[bool] = False

    @property
    def cam_layer(self) -> nn.Module:
        """None to look into.

        Raises:
            GradientsNeeded: always.
        """
        raise GradientsNeeded(f"{type(self).__name__} has no layers to look into; use a method without gradients")

    @property
    def perceptual_layers(self) -> tuple[nn.Module, ...]:
        """None to look into.

        Raises:
            GradientsNeeded: always.
        """
        raise GradientsNeeded(f"{type(self).__name__} has no layers to look into; use a method without gradients")


def try_out(classifier: Classifier, path: Path, outputs: int, size: int, channels: int = 1) -> None:
    """Run one and then two images of `size` pixels a side.

    Raises:
        BundleError: it fails, or does not give `outputs` logits for each; the message names the file.
    """
    for count in (1, 2):
        given = f"images of shape ({count}, {channels}, {size}, {size})"
        try:
            logits = classifier(torch.full((count, channels, size, size), 0.5))
        except Exception as error:
            raise BundleError(f"{path} cannot take {given}: {reason(error)}") from error
        if logits.shape != (count, outputs):
            raise BundleError(
                f"{path} gives the shape {tuple(logits.shape)} for {given}; expected ({count}, {outputs})"
            )


def reason(error: Exception) -> str:
    """The last line of an error's message: after a traceback of the file's own code, what went wrong."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__
