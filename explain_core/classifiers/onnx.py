"""A classifier that is one ONNX file, run by onnxruntime: a graph of known operators and its weights, no program.

Operators from outside onnxruntime are not loaded, and neither are weights beside the file, which the bundle's
checksum of the file would not cover; `torch.onnx.export(..., external_data=False)` puts them inside.
"""

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from explain_core.classifiers._logits_only import LogitsOnly, reason, try_out
from explain_core.errors import BundleError

_ERRORS_ONLY = 3


class OnnxClassifier(LogitsOnly):
    """Images, float, shape (N, channels, S, S) -> logits, shape (N, outputs), on the images' device.

    A bundle's takes grey images in [0, 1].
    Images on a CUDA device are classified there if onnxruntime has its CUDA provider, else on the CPU. A graph with
    a batch of one is called for one image after the other.

    Args:
        path: the ONNX file.
        outputs: number of logits that it shall have.
        size: S.
        channels: of its images.

    Raises:
        BundleError: onnxruntime is missing, the file is no ONNX graph, or does not take such images.
    """

    file_name: ClassVar[str] = "classifier.onnx"

    def __init__(self, path: Path, outputs: int, size: int, channels: int = 1) -> None:
        try:
            self._graph = path.read_bytes()
            self._sessions = {torch.device("cpu"): _session(self._graph, torch.device("cpu"))}
        except ImportError as error:
            raise BundleError(f"{path} needs onnxruntime; install it or use a bundle with safetensors") from error
        except Exception as error:
            raise BundleError(f"{path} cannot be read as ONNX: {reason(error)}") from error
        self._name, self._one_by_one = _input_of(self._sessions[torch.device("cpu")], path, (channels, size, size))
        try_out(self, path, outputs, size, channels)

    def __call__(self, images: Tensor, /) -> Tensor:
        session = self._sessions.get(images.device)
        if session is None:
            session = self._sessions[images.device] = _session(self._graph, images.device)
        pixels = np.ascontiguousarray(images.detach().cpu().numpy(), dtype=np.float32)
        parts = np.split(pixels, len(pixels)) if self._one_by_one else [pixels]
        logits = np.concatenate([session.run(None, {self._name: part})[0] for part in parts])
        return torch.from_numpy(logits).to(images.device)


def _session(graph: bytes, device: torch.device) -> Any:
    """An onnxruntime session for images on `device`, with as many threads as torch uses."""
    import onnxruntime  # noqa: PLC0415 - extra "benchmark"

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    return onnxruntime.InferenceSession(graph, options, providers=providers)


def _input_of(session: Any, path: Path, shape: tuple[int, int, int]) -> tuple[str, bool]:
    """Name of the graph's only input, and whether its batch is one.

    Raises:
        BundleError: it has more inputs or outputs than one, or the input is not float of shape (N, *shape).
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise BundleError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs; expected one of each")
    batch, *rest = inputs[0].shape or [None]
    fits = len(rest) == 3 and all(  # noqa: PLR2004 - channel, height, width
        not isinstance(given, int) or given == wanted for given, wanted in zip(rest, shape, strict=True)
    )
    if inputs[0].type != "tensor(float)" or not fits or (isinstance(batch, int) and batch != 1):
        raise BundleError(
            f"{path} takes {inputs[0].type} of shape {inputs[0].shape}; expected tensor(float) of shape "
            f"['N', {', '.join(map(str, shape))}]"
        )
    return inputs[0].name, batch == 1


PLUGIN = OnnxClassifier
