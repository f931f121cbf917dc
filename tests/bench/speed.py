"""A bundle's generators against grad-cam's own GradCAM call, on its classifier, in one run; every call decides too."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from explain_core import plugins
from explain_core.augmentation import registered_average
from explain_core.blur import weighted_blur
from explain_core.bundles.bundle import load
from explain_core.classifier import DecisionRule
from explain_core.engine import choose_device, for_inference
from explain_core.explainer import DEFAULT_METHOD
from explain_core.generators.mask_generator import MaskGenerator
from explain_core.geometry import AffineRange
from explain_core.methods.grad_cam import GradCam
from explain_core.methods.similar_adversarial import SimilarAdversarialMethod
from training.benchmark.timing import timed

PEER = "GradCAM as grad-cam's README calls it"
DECISION, ONE_PASS, DELIVERED = "the decision alone", "similar_adversarial", "delivered map, blurred"
SEARCHING = ("bbmp", "perceptual_perturbation")
"""Baselines that search anew for each image: seconds an image, at batch 1 alone."""
_MASK_FILTERS = (16, 32, 64, 128)


def speed(
    *,
    bundle: Path,
    device: str,
    repeats: int,
    baselines: bool = False,
) -> dict[str, Any]:
    """Seconds per image at batch 1 and 16, and their ratio to the peer's.

    Args:
        bundle: whose classifier and generators run.
        device: "auto", "cpu" or "cuda[:n]".
        repeats: timed calls of each, after one to warm up.
        baselines: the paper's baselines (its Table IX) and captum's GradCAM too.
    """
    where, loaded = choose_device(device), load(bundle)
    classifier: Any = loaded.classifier
    network, size = loaded.with_generators(), loaded.input_spec.size
    copies, blur = loaded.augmentations, loaded.heatmaps[DEFAULT_METHOD].blur
    rule = DecisionRule(threshold=loaded.threshold)
    ready = for_inference(classifier, where)
    method = SimilarAdversarialMethod(network=for_inference(network, where), rule=rule)
    images = torch.rand(16, 1, size, size, generator=torch.Generator().manual_seed(0)).to(where)
    images = images.contiguous(memory_format=torch.channels_last)
    calls: dict[str, Callable[[Tensor], Any]] = {
        PEER: peer(classifier.eval().to(where)),
        DECISION: lambda x: rule.decide(_undifferentiated(ready, x), _first(x)),
        "grad_cam (ours, frozen and fused)": lambda x: GradCam()(ready, x, _first(x)),
        ONE_PASS: lambda x: method(ready, x, _first(x)),
        DELIVERED: lambda x: weighted_blur(_averaged(method, ready, x, copies), blur * size),
        "similar_adversarial + 10 augmentations": lambda x: _averaged(method, ready, x, 10),
    }
    figures = {name: timed(call, images, repeats) for name, call in calls.items()}
    if baselines:
        for name, call in _baselines(ready, rule, where).items():
            slow = name in SEARCHING
            figures[name] = timed(call, images, 1 if slow else repeats, (1,) if slow else (1, 16))
    for row in figures.values():
        for batch in (1, 16):
            if (key := f"batch_{batch}") in row:
                row[f"ratio_{batch}"] = row[key] / figures[PEER][key]
    return {
        "classifier": type(classifier).__name__,
        "generators": sum(parameter.numel() for parameter in network.parameters()),
        "size": size,
        "augmentations": copies,
        "device": str(where),
        "threads": torch.get_num_threads(),
        "rows": figures,
    }


@torch.no_grad()
def _undifferentiated(classifier: Any, x: Tensor) -> Tensor:
    found: Tensor = classifier(x)
    return found


def _baselines(classifier: Any, rule: DecisionRule, where: torch.device) -> dict[str, Callable[[Tensor], Any]]:
    """The paper's baselines on the frozen and fused classifier; what they learn does not change their time."""
    options: dict[str, dict[str, Any]] = {
        "gradient": {},
        "integrated_gradients": {},
        "mask_generator": {"network": for_inference(MaskGenerator(_MASK_FILTERS), where), "rule": rule},
        **{name: {"rule": rule} for name in SEARCHING},
    }
    calls: dict[str, Callable[[Tensor], Any]] = {
        "GradCAM of captum": lambda x: GradCam(package="captum")(classifier, x, _first(x))
    }
    for name, given in options.items():
        plugin = plugins.load("explain_core.methods", name)
        method = plugin(**{key: value for key, value in given.items() if key in plugin.__dataclass_fields__})
        calls[name] = partial(_called, method, classifier)
    return calls


def _called(method: Any, classifier: Any, x: Tensor) -> Any:
    return method(classifier, x, _first(x))


def _averaged(method: SimilarAdversarialMethod, classifier: Any, x: Tensor, copies: int) -> Tensor:
    """The map of one pass, or of `copies` registered ones."""
    if not copies:
        return method(classifier, x, _first(x))
    return registered_average(lambda many, _: method(classifier, many, _first(many)), x, AffineRange(), copies, 0)[0]


def peer(classifier: nn.Module) -> Callable[[Tensor], Any]:
    """grad-cam's GradCAM on a classifier in eval mode with its parameters as they were trained."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layer: Any = classifier.cam_layer
    cam = GradCAM(model=classifier, target_layers=[layer])
    return lambda x: cam(input_tensor=x, targets=[ClassifierOutputTarget(0)] * len(x))


def _first(images: Tensor) -> Tensor:
    return torch.zeros(len(images), dtype=torch.long, device=images.device)
