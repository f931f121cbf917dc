"""A classifier that is one TorchScript file: network and weights together, run without gradients.

A TorchScript file is a program. Loading and running it executes what its author wrote, in PyTorch's interpreter: it
reaches no Python, but PyTorch does not promise that it reaches nothing else, and it can take all memory and time. A
checksum says that the file is the one that was delivered, not that it is harmless: take it only from someone whose
code you would run. Bundles of weights (safetensors) and of ONNX graphs hold no program; prefer them.

PyTorch calls TorchScript deprecated, and says so with a FutureWarning when a file is loaded.
"""

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from explain_core.classifiers._logits_only import LogitsOnly, reason, try_out
from explain_core.errors import BundleError


class TorchScriptClassifier(LogitsOnly):
    """Images, float, shape (N, channels, S, S) -> logits, shape (N, outputs), on the images' device.

    A bundle's takes grey images in [0, 1].

    Args:
        path: what `torch.jit.save` wrote.
        outputs: number of logits that it shall have.
        size: S.
        channels: of its images.

    Raises:
        BundleError: the file is no TorchScript, or does not take such images for any N.
    """

    file_name: ClassVar[str] = "classifier.pt"

    def __init__(self, path: Path, outputs: int, size: int, channels: int = 1) -> None:
        try:
            self._module = torch.jit.load(path, map_location="cpu").eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise BundleError(f"{path} cannot be read as TorchScript: {reason(error)}") from error
        try_out(self, path, outputs, size, channels)

    @torch.no_grad()
    def __call__(self, images: Tensor, /) -> Tensor:
        logits: Tensor = self._module.to(images.device)(images.detach())
        return logits.float()


PLUGIN = TorchScriptClassifier
