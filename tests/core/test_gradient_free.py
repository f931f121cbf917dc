import sys
from dataclasses import dataclass
from typing import ClassVar

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from explain_core import plugins
from explain_core.classifier import score
from explain_core.classifiers.onnx import OnnxClassifier
from explain_core.classifiers.torchscript import TorchScriptClassifier
from explain_core.errors import BundleError, GradientsNeeded
from explain_core.generators.similar_adversarial import SimilarAdversarial
from explain_core.methods.similar_adversarial import SimilarAdversarialMethod
from explain_core.testing.classifier import ToyClassifier
from explain_core.testing.promises import check_classifier, check_method

SIZE = 12
DEPRECATED = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
BOTH = pytest.mark.parametrize("kind", ["onnx", pytest.param("torchscript", marks=DEPRECATED)])


def images_of(count):
    return torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


def onnx_of(toy, path, *, shape=("N", 1, SIZE, SIZE), element=TensorProto.FLOAT, external=False):
    """The toy's network as an ONNX graph, operator by operator."""
    nodes = [
        helper.make_node("Cast", ["x"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "first.weight", "first.bias"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second.weight", "second.bias"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "output.weight", "output.bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], toy.output.out_features])],
        [numpy_helper.from_array(values.numpy(), name) for name, values in toy.state_dict().items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


def torchscript_of(module, path):
    torch.jit.save(torch.jit.script(module), path)
    return path


def read(kind, toy, folder, outputs=3, size=SIZE):
    """The toy, written as a file and read again by the plug-in of that kind."""
    plugin = plugins.load("explain_core.classifiers", kind)
    path = folder / plugin.file_name
    (onnx_of if kind == "onnx" else torchscript_of)(toy, path)
    return plugin(path, outputs, size)


class ScriptedToy(torch.nn.Module):
    """The toy without its properties, which TorchScript does not take."""

    def __init__(self, toy, shift=0.0):
        super().__init__()
        self.layers = torch.nn.Sequential(toy.first, toy.first_relu, toy.second, toy.second_relu)
        self.output = toy.output
        self.shift = shift

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.output(self.layers(images).mean(dim=(-2, -1))) + self.shift


@dataclass(frozen=True, slots=True, kw_only=True)
class Brightening:
    """A method without gradients: where a brighter row raises the score."""

    reference: ClassVar[str] = "none: for tests only"
    needs_gradients: ClassVar[bool] = False
    trained_by: ClassVar[str | None] = None

    def __call__(self, classifier, images, classes):
        maps = torch.zeros_like(images)
        for row in range(images.shape[2]):
            brighter = images.clone()
            brighter[:, :, row] += 0.1
            rise = score(classifier(brighter), classes) - score(classifier(images), classes)
            maps[:, :, row] = rise.detach().abs()[:, None, None]
        return maps


@BOTH
def test_a_file_gives_the_logits_of_the_network_that_it_was_written_from(kind, tmp_path):
    toy = ToyClassifier()
    classifier = read(kind, toy if kind == "onnx" else ScriptedToy(toy), tmp_path)
    check_classifier(classifier, 3, SIZE)
    assert torch.allclose(classifier(images_of(5)), toy(images_of(5)), atol=1e-5)


@BOTH
def test_gradients_do_not_flow_and_layers_are_refused_in_one_line(kind, tmp_path):
    toy = ToyClassifier()
    classifier = read(kind, toy if kind == "onnx" else ScriptedToy(toy).requires_grad_(), tmp_path)
    assert not classifier.differentiable
    assert not classifier(images_of(1).requires_grad_()).requires_grad
    for layers in ("cam_layer", "perceptual_layers"):
        with pytest.raises(GradientsNeeded, match=f"^{type(classifier).__name__} has no layers to look into; [^\n]*$"):
            getattr(classifier, layers)


@BOTH
def test_methods_without_gradients_work_and_the_others_refuse_in_one_line(kind, tmp_path):
    toy = ToyClassifier()
    classifier = read(kind, toy if kind == "onnx" else ScriptedToy(toy), tmp_path)
    check_method(Brightening(), classifier, SIZE)
    classes = torch.tensor([2, 1])
    expected = Brightening()(toy, images_of(2), classes)
    assert torch.allclose(Brightening()(classifier, images_of(2), classes), expected, atol=1e-5)
    refused = []
    for name in plugins.available("explain_core.methods"):
        method = plugins.load("explain_core.methods", name)
        if method.trained_by is None and method.needs_gradients:
            with pytest.raises(GradientsNeeded, match=f"^{name} needs gradients of the classifier and [^\n]*$"):
                method()(classifier, images_of(2), classes)
            refused.append(name)
    assert {"gradient", "smooth_gradient", "input_gradient", "integrated_gradients", "grad_cam"} <= set(refused)


@BOTH
def test_similar_adversarial_generators_take_its_decisions(kind, tmp_path):
    network = ToyClassifier()
    network.output.bias.data = torch.tensor([1.0, 0.0, -1.0])
    classifier = read(kind, network if kind == "onnx" else ScriptedToy(network), tmp_path)
    generators = SimilarAdversarial([4, 8], output="identity", decisions=2).eval().requires_grad_(requires_grad=False)
    generators.adversarial[1][-1].bias.fill_(0.25)
    method = SimilarAdversarialMethod(network=generators)
    images, classes = images_of(2) / 2, torch.tensor([0, 2])
    expected = method(network, images, classes)
    assert [round(float(values.max()), 4) for values in expected] == [0.25, 0]
    assert torch.equal(method(classifier, images, classes), expected)


@BOTH
def test_a_file_with_other_outputs_or_another_size_is_refused(kind, tmp_path):
    toy = ToyClassifier()
    network = toy if kind == "onnx" else ScriptedToy(toy)
    with pytest.raises(BundleError, match=r"gives the shape \(1, 3\) for images of .*; expected \(1, 2\)"):
        read(kind, network, tmp_path, outputs=2)
    if kind == "onnx":
        with pytest.raises(BundleError, match=r"takes tensor\(float\) of shape .*; expected .*\['N', 1, 16, 16\]"):
            read(kind, network, tmp_path, size=16)


@BOTH
@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_an_unreadable_file_is_named_in_one_line(kind, content, tmp_path):
    plugin = plugins.load("explain_core.classifiers", kind)
    path = tmp_path / plugin.file_name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{plugin.file_name} cannot be read as [^\n]*$"):
        plugin(path, 3, SIZE)


def test_a_graph_with_a_batch_of_one_is_called_image_by_image(tmp_path):
    toy = ToyClassifier()
    classifier = OnnxClassifier(onnx_of(toy, tmp_path / "one.onnx", shape=(1, 1, SIZE, SIZE)), 3, SIZE)
    check_classifier(classifier, 3, SIZE)
    assert torch.allclose(classifier(images_of(4)), toy(images_of(4)), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (4, 1, SIZE, SIZE)},
        {"shape": ("N", 1, SIZE, SIZE + 2)},
        {"shape": ("N", 3, SIZE, SIZE)},
        {"element": TensorProto.DOUBLE},
    ],
)
def test_a_graph_with_another_input_is_refused(changes, tmp_path):
    toy = ToyClassifier()
    if changes.get("shape", (0, 1))[1] == 3:
        toy.first.weight.data = toy.first.weight.data.repeat(1, 3, 1, 1)
    path = onnx_of(toy, tmp_path / "other.onnx", **changes)
    with pytest.raises(BundleError, match=r"other\.onnx takes tensor\((float|double)\) of shape [^\n]*; expected"):
        OnnxClassifier(path, 3, SIZE)


def test_a_graph_with_two_inputs_is_refused(tmp_path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1, SIZE, SIZE]) for name in "xyz"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "y"], ["z"])], "two", values[:2], values[2:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "two.onnx"
    )
    with pytest.raises(BundleError, match="has 2 inputs and 1 outputs; expected one of each"):
        OnnxClassifier(tmp_path / "two.onnx", 3, SIZE)


def test_weights_beside_the_graph_are_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = onnx_of(ToyClassifier(), tmp_path / "outside.onnx", external=True)
    assert (tmp_path / "outside.onnx.data").is_file()
    with pytest.raises(BundleError, match=r"cannot be read as ONNX: .*outside\.onnx\.data"):
        OnnxClassifier(path, 3, SIZE)


def test_a_missing_onnxruntime_is_said(tmp_path, monkeypatch):
    path = onnx_of(ToyClassifier(), tmp_path / "classifier.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BundleError, match="needs onnxruntime; install it"):
        OnnxClassifier(path, 3, SIZE)


@DEPRECATED
def test_a_torchscript_that_fails_for_two_images_is_refused(tmp_path):
    class OnlyOne(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.reshape(1, -1)[:, :3]

    path = torchscript_of(OnlyOne(), tmp_path / "one.pt")
    with pytest.raises(BundleError, match=r"gives the shape \(1, 3\) for images of shape \(2, 1, 12, 12\)"):
        TorchScriptClassifier(path, 3, SIZE)


@DEPRECATED
def test_a_torchscript_that_cannot_take_grey_images_says_why_in_one_line(tmp_path):
    path = torchscript_of(torch.nn.Conv2d(3, 2, 3), tmp_path / "colour.pt")
    with pytest.raises(
        BundleError, match=r"cannot take images of shape \(1, 1, 12, 12\): RuntimeError: [^\n]*channels"
    ):
        TorchScriptClassifier(path, 3, SIZE)


@DEPRECATED
def test_a_torchscript_saved_in_training_mode_is_evaluated(tmp_path):
    class Noisy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.dropout(images).flatten(1)[:, :3]

    check_classifier(TorchScriptClassifier(torchscript_of(Noisy().train(), tmp_path / "noisy.pt"), 3, SIZE), 3, SIZE)
