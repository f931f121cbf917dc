"""Every architecture keeps the promises of the classifier protocol."""

import pytest
import torch

from explain_core import plugins
from explain_core.testing.promises import check_classifier

LAYERS = {"efficientnet_lite0": 16, "evidence_lite0": 16, "evidence_lite2": 21, "resnet20": 9, "resnet50": 16}
FROM_A_FILE = {"mediffusion", "onnx", "torchscript"}


@pytest.mark.parametrize("name", sorted(set(plugins.available("explain_core.classifiers")) - FROM_A_FILE))
def test_an_architecture_keeps_the_protocols_promises(name):
    torch.manual_seed(0)
    classifier = plugins.load("explain_core.classifiers", name)(3).eval().requires_grad_(requires_grad=False)
    check_classifier(classifier, 3, 64)


@pytest.mark.parametrize("name", [*LAYERS])
def test_perceptual_layers_give_activations(name):
    """ResNet-50's are read after the activation in place; the others' are activations."""
    torch.manual_seed(0)
    classifier = plugins.load("explain_core.classifiers", name)(1).eval()
    seen = []
    for layer in classifier.perceptual_layers:
        layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        classifier(torch.rand(1, 1, 64, 64))
    assert len(seen) == LAYERS[name]
    for values in seen:
        assert float(values.min()) >= 0
        assert float(values.max()) > 0
