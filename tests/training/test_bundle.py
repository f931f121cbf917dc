import json
import shutil

import numpy as np
import onnx
import pytest
import torch

from explain_core.bundle import SUMS, digest_of, load, open_bundle, verify
from explain_core.errors import BundleError
from explain_core.radiograph import Radiograph
from training.__main__ import main
from training.export import export


@pytest.fixture(scope="session")
def bundle(runs, nih_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "toy"
    export(runs, runs, f"nih:{nih_folder}", "toy", "0.0.1", folder)
    return folder


def radiograph(rows=120, columns=90):
    pixels = np.random.default_rng(1).random((rows, columns), np.float32)
    return Radiograph(pixels=pixels, spacing=None, orientation=None, source_id="1.2.3")


def test_a_bundle_is_complete_small_and_verifies(bundle):
    digest = verify(bundle)
    assert len(digest) == 64
    card = (bundle / "model_card.md").read_text()
    for needed in ("Wang X", "Shih G", "Kermany", "NOT FOR DIAGNOSIS", "| IoU@80 |", "random", "location", "prior"):
        assert needed in card or needed in card.replace("|", "| ")
    assert load(bundle).identity.digest == digest


@pytest.mark.parametrize("name", ["classifier.safetensors", "generators.safetensors", "bundle.toml", "model_card.md"])
def test_one_changed_byte_is_refused_with_the_files_name(bundle, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=name):
        open_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        verify(copy)


class Constant(torch.nn.Module):
    """The same logits for any image, given by TorchScript."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits + 0 * images.mean(dim=(1, 2, 3))[:, None]


def constant_graph(logits, path):
    """The same logits for any image, given by ONNX."""
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        onnx.helper.make_node("Flatten", ["mean"], ["flat"]),
        onnx.helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
    ]
    values = {"weight": np.zeros((1, len(logits)), np.float32), "bias": logits.numpy()}
    graph = onnx.helper.make_graph(
        nodes,
        "constant",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1, 224, 224])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", len(logits)])],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)


def sign(folder):
    listed = sorted(path for path in folder.iterdir() if path.name != SUMS)
    (folder / SUMS).write_text("".join(f"{digest_of(path)}  {path.name}\n" for path in listed))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize(("kind", "file_name"), [("onnx", "classifier.onnx"), ("torchscript", "classifier.pt")])
def test_a_classifier_may_be_one_file_without_gradients(bundle, tmp_path, kind, file_name):
    folder = tmp_path / kind
    shutil.copytree(bundle, folder)
    weights = (folder / "classifier.safetensors").rename(tmp_path / "classifier.safetensors")
    logits = torch.linspace(1.5, -1.5, len(load(bundle).description["classifier"]["outputs"]))
    if kind == "onnx":
        constant_graph(logits, folder / file_name)
    else:
        torch.jit.save(torch.jit.script(Constant(logits)), folder / file_name)
    description = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(description.replace('"efficientnet_lite0"', f'"{kind}"'))
    sign(folder)
    explanation = open_bundle(folder, device="cpu", augmentations=2).explain(radiograph())
    assert explanation.prediction.probability == pytest.approx(1 / (1 + np.exp(-1.5)), abs=1e-6)
    assert explanation.attribution.values.max() > 0
    shutil.copy(weights, folder)
    with pytest.raises(BundleError, match=r"classifier\.safetensors is not listed in SHA256SUMS; remove it"):
        open_bundle(folder)
    sign(folder)
    with pytest.raises(BundleError, match=r"must list one of classifier\.safetensors, classifier\.onnx, "):
        open_bundle(folder)
    (folder / file_name).unlink()
    sign(folder)
    with pytest.raises(BundleError, match=f"{file_name} cannot be read as"):
        open_bundle(folder)


def test_the_explanation_is_on_the_sources_grid_and_repeats(bundle):
    explainer = open_bundle(bundle, device="cpu", augmentations=4, seed=3)
    one, two = explainer.explain(radiograph()), explainer.explain(radiograph())
    assert one.attribution.values.shape == (120, 90)
    assert one.attribution.values.min() >= 0
    assert np.isfinite(one.attribution.values).all()
    assert np.array_equal(one.attribution.values, two.attribution.values)
    other = open_bundle(bundle, device="cpu", augmentations=4, seed=4).explain(radiograph())
    assert not np.array_equal(one.attribution.values, other.attribution.values)
    assert one.provenance.parameters["augmentations"] == 4
    assert one.prediction.probability == pytest.approx(two.prediction.probability)


def test_without_augmentation_the_map_is_the_difference_of_the_images(bundle):
    explainer = open_bundle(bundle, device="cpu", augmentations=0)
    explanation = explainer.explain(radiograph(224, 224))
    difference = np.abs(explanation.similar.image - explanation.adversarial.image)
    np.testing.assert_allclose(explanation.attribution.values, difference, atol=1e-6)


def test_evaluate_prints_every_figure(bundle, nih_folder, tmp_path, monkeypatch, capsys):
    out, table = tmp_path / "figures.json", tmp_path / "model.md"
    monkeypatch.setattr(
        "sys.argv",
        ["training", "evaluate", "--bundle", str(bundle), "--data", f"nih:{nih_folder}", "--json", str(out),
         "--markdown", str(table), "--augmentations", "2"],
    )  # fmt: skip
    main()
    figures = json.loads(out.read_text())
    assert set(figures["classification"]) == {"all", "AP", "PA"}
    everything = figures["counterfactuals"]["all"]
    assert everything["images"] == 16
    assert {"similar_auc", "adversarial_auc"} & set(everything) or everything["kept_rate"] >= 0
    rows = figures["localisation"]["parts"]["all"]["rows"]
    assert {"location_prior", "centre", "random", "gaussian_blur", "perfect_mask"} < set(rows)
    # the boxes are all alike, so the training boxes' mean is a perfect prior
    assert rows["location_prior"]["iou"] == pytest.approx(rows["perfect_mask"]["iou"])
    assert "gain of the averaged map over the location prior" in table.read_text()
    assert "| figure | target | all | AP | PA |" in capsys.readouterr().out
