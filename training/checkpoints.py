"""Checkpoints that are written whole or not at all, and that no other run goes on from."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from explain_core.files import fresh
from training.errors import TrainingError


def fingerprint(*parts: Any) -> str:
    """SHA-256 over settings (dataclasses, mappings, text), arrays, tensors and the weights of networks."""
    digest = hashlib.sha256()
    for part in parts:
        arrays = {"": part}
        if isinstance(part, nn.Module):
            arrays = dict(part.state_dict())
        for name, value in arrays.items():
            digest.update(f"{type(part).__name__}{name}\0".encode())
            for piece in _pieces(value):
                digest.update(piece)
    return digest.hexdigest()


def fingerprint_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the tensors of a network's state in the order of their names."""
    return fingerprint(*(value.detach().cpu() for _, value in sorted(state.items())))


def _pieces(value: Any) -> Iterator[bytes | memoryview]:
    """The bytes that stand for a value; those of an array are not copied."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous().numpy()
    if isinstance(value, np.ndarray):
        yield str(value.shape).encode()
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
        return
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    yield json.dumps(plain, sort_keys=True, default=str).encode()


def save(path: Path, state: dict[str, Any], mark: str) -> None:
    """Write a checkpoint of the run that `mark` stands for; a stop in mid-write leaves the one before."""
    with fresh(path) as file:
        torch.save(state | {"mark": mark}, file)


def load(path: Path, mark: str, device: torch.device) -> dict[str, Any] | None:
    """The state to go on from, None where there is no checkpoint.

    Raises:
        TrainingError: it was made with other settings, data or classifier.
    """
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    if state.get("mark") != mark:
        raise TrainingError(
            f"{path} was made with other settings, data or classifier; use another folder, or remove it"
        )
    return state
