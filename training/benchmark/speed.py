"""`python -m training speed`: generators against grad-cam's own GradCAM call, on one classifier, in one run.

Speed does not depend on what networks have learnt, so that an untrained classifier of any architecture will do.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from explain_core import plugins
from explain_core.augmentation import registered_average
from explain_core.bundle import load
from explain_core.engine import choose_device, for_inference
from explain_core.generators.similar_adversarial import SimilarAdversarial
from explain_core.geometry import AffineRange
from explain_core.methods.grad_cam import GradCam
from explain_core.methods.similar_adversarial import SimilarAdversarialMethod
from training.benchmark.timing import timed

PEER = "GradCAM as grad-cam's README calls it"


def speed(
    *, bundle: Path | None, architecture: str, filters: tuple[int, ...], size: int, device: str, repeats: int
) -> dict[str, Any]:
    """Seconds per image at batch 1 and 16, and their ratio to the peer's.

    Args:
        bundle: whose classifier and generators run; None for untrained ones.
        architecture: of the untrained classifier.
        filters: of the untrained generators, Single_2 with plain output.
        size: of the untrained networks' input in pixels a side.
        device: "auto", "cpu" or "cuda[:n]".
        repeats: timed calls of each, after one to warm up.
    """
    where = choose_device(device)
    if bundle is not None:
        loaded = load(bundle)
        classifier: Any = loaded.classifier
        network, size = loaded.generators, loaded.input_spec.size
    else:
        classifier = plugins.load("explain_core.classifiers", architecture)(1)
        network = SimilarAdversarial(filters)
    ready = for_inference(classifier, where)
    method = SimilarAdversarialMethod(network=for_inference(network, where))
    images = torch.rand(16, 1, size, size, generator=torch.Generator().manual_seed(0)).to(where)
    images = images.contiguous(memory_format=torch.channels_last)
    calls: dict[str, Callable[[Tensor], Any]] = {
        PEER: peer(classifier.eval().to(where)),
        "grad_cam (ours, frozen and fused)": lambda x: GradCam()(ready, x, _first(x)),
        "similar_adversarial": lambda x: method(ready, x, _first(x)),
        "similar_adversarial + 10 augmentations": lambda x: registered_average(
            lambda copies: method(ready, copies, _first(copies)), x, AffineRange(), 10, 0
        ),
    }
    figures = {name: timed(call, images, repeats) for name, call in calls.items()}
    for row in figures.values():
        row["ratio_1"] = row["batch_1"] / figures[PEER]["batch_1"]
        row["ratio_16"] = row["batch_16"] / figures[PEER]["batch_16"]
    return {
        "classifier": type(classifier).__name__,
        "generators": sum(parameter.numel() for parameter in network.parameters()),
        "size": size,
        "device": str(where),
        "threads": torch.get_num_threads(),
        "rows": figures,
    }


def peer(classifier: nn.Module) -> Callable[[Tensor], Any]:
    """grad-cam's GradCAM on a classifier in eval mode with its parameters as they were trained."""
    from pytorch_grad_cam import GradCAM  # noqa: PLC0415 - extra "benchmark"
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: PLC0415 - as above

    layer: Any = classifier.cam_layer
    cam = GradCAM(model=classifier, target_layers=[layer])
    return lambda x: cam(input_tensor=x, targets=[ClassifierOutputTarget(0)] * len(x))


def _first(images: Tensor) -> Tensor:
    return torch.zeros(len(images), dtype=torch.long, device=images.device)


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    heading = f"{figures['classifier']}, {figures['size']} px, generators of {figures['generators']:,} weights, "
    heading += f"{figures['device']}, {figures['threads']} threads"
    lines = [heading, f"{'':42}  batch 1 [ms]  ratio   batch 16 [ms/image]  ratio"]
    for name, row in figures["rows"].items():
        lines.append(
            f"{name:42}  {row['batch_1'] * 1e3:12.1f}  {row['ratio_1']:5.2f}   "
            f"{row['batch_16'] * 1e3:19.1f}  {row['ratio_16']:5.2f}"
        )
    return "\n".join(lines)
