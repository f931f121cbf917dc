"""Grad-CAM: equations (1) and (2) of arXiv:1610.02391 at the classifier's last convolutional layer.

E(x) = bilinear up to the image of ReLU(sum_k a_k A_k), a_k = mean over positions of d f_c(x) / d A_k
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from explain_core.classifier import Classifier, need_gradients, score


@dataclass(frozen=True, slots=True, kw_only=True)
class GradCam:
    """Grad-CAM by the package grad-cam or by captum; both give the same maps.

    The package grad-cam's own call stretches every map to [0, 1], so that an image without evidence shows a spot as
    strong as any other. Its raw maps are taken here, before that step: the ranking of the pixels of one image is the
    same, the maps of two images can be compared, and a map without evidence is zero. Half a pixel of the layer is
    beyond its outermost centres; there the map continues with its border's value.

    Attributes:
        package: "grad-cam" or "captum"; grad-cam's backward pass goes on to the images, captum's stops at the layer.

    Raises:
        ValueError: another package.
    """

    reference: ClassVar[str] = "Selvaraju et al., Grad-CAM, arXiv:1610.02391"
    needs_gradients: ClassVar[bool] = True
    trained_by: ClassVar[str | None] = None
    unit: ClassVar[str] = "activations weighted by their gradient, logits"
    packages: ClassVar[tuple[str, ...]] = ("pytorch_grad_cam",)

    package: Literal["grad-cam", "captum"] = "grad-cam"

    def __post_init__(self) -> None:
        if self.package not in _RAW_MAPS:
            raise ValueError(f"package must be one of {', '.join(_RAW_MAPS)}, not {self.package!r}")

    def __call__(self, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
        """Maps of the images' shape, (N, 1, S, S); see `explain_core.method.Method`.

        Raises:
            GradientsNeeded: the classifier has no gradients.
        """
        need_gradients(classifier, "grad_cam")
        raw = _RAW_MAPS[self.package](classifier, images.detach().requires_grad_(), classes)
        return functional.interpolate(raw.relu(), images.shape[-2:], mode="bilinear", align_corners=False).float()


def _by_grad_cam(classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    """Weighted sums of the layer's channels, shape (N, 1, h, w), of images that require gradients.

    The gradient is asked for with respect to the images, so that nothing gathers in the parameters. The package's
    context manager is not used: it prints and swallows an IndexError.
    """
    from pytorch_grad_cam import GradCAM  # noqa: PLC0415 - extra "benchmark"

    layer = classifier.cam_layer
    cam = GradCAM(classifier, [layer])
    watch = cam.activations_and_grads
    try:
        with torch.enable_grad():
            torch.autograd.grad(score(watch(images), classes).sum(), images)
        activations, gradients = watch.activations[0].numpy(), watch.gradients[0].numpy()
        raw = cam.get_cam_image(images, layer, [], activations, gradients)
    finally:
        watch.release()
    return torch.from_numpy(raw)[:, None].to(images.device)


def _by_captum(classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    """The same by captum."""
    from captum.attr import LayerGradCam  # noqa: PLC0415 - extra "benchmark"

    raw: Tensor = LayerGradCam(classifier, classifier.cam_layer).attribute(images, target=classes)
    return raw.detach()


_RAW_MAPS = {"grad-cam": _by_grad_cam, "captum": _by_captum}

PLUGIN = GradCam
