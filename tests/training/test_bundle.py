import os
import re
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from explain_core.blur import BLUR, weighted_blur
from explain_core.bundles.bundle import load
from explain_core.bundles.files import SUMS, digest_of, toml_text, verify
from explain_core.classifier import look
from explain_core.errors import BundleError
from explain_core.explainer import open_bundle
from explain_core.generators.kinds import build
from explain_core.radiograph import Radiograph
from training.bundle import COPIES
from training.datasets.images import load_pixels

pytestmark = pytest.mark.slow


def explained(explainer, image):
    """The explanation of one image by the default method."""
    (explanation,) = explainer.explain(image, ["similar_adversarial"])
    return explanation


def radiograph(rows=120, columns=90):
    pixels = np.random.default_rng(1).random((rows, columns), np.float32)
    return Radiograph(pixels=pixels, spacing=None, orientation=None, source_id="1.2.3")


def test_a_bundle_is_complete_small_and_verifies(bundle):
    digest = verify(bundle)
    assert len(digest) == 64
    card = (bundle / "model_card.md").read_text()
    for needed in ("Wang X", "Shih G", "ImageNet", "NOT FOR DIAGNOSIS", "boxes trained the classifier's map", "IoU@80"):
        assert needed in card, needed
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
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1, 64, 64])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", len(logits)])],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)


def on_pixels(folder):
    """Put generators that look at nothing but the image in the place of the bundle's."""
    torch.manual_seed(0)
    table = tomllib.loads((folder / "bundle.toml").read_text())
    table["generators"] = {
        "filters": [4, 8], "kind": "single", "head_layers": 2, "output": "identity", "dropout": 0.0, "decisions": 2,
    }  # fmt: skip
    network = build(table["generators"])
    for head in (network.similar, *network.adversarial):
        torch.nn.init.normal_(head[-1].weight, std=0.05)
    save_file(network.state_dict(), folder / "generators.safetensors")
    (folder / "bundle.toml").write_text(toml_text(table))


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
    (folder / "bundle.toml").write_text(description.replace('"evidence_lite0"', f'"{kind}"'))
    sign(folder)
    with pytest.raises(BundleError, match=f"its generators read features of the classifier.* {kind} offers none"):
        open_bundle(folder)
    on_pixels(folder)
    sign(folder)
    explanation = explained(open_bundle(folder, device="cpu", augmentations=2), radiograph())
    assert explanation.prediction.probability == round(1 / (1 + np.exp(-1.5 / load(bundle).temperature)), 4)
    assert explanation.attribution.values.max() > 0
    assert explanation.out_of_distribution is not None
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
    one, two = explained(explainer, radiograph()), explained(explainer, radiograph())
    assert one.attribution.values.shape == (120, 90)
    assert one.attribution.values.min() >= 0
    assert np.isfinite(one.attribution.values).all()
    assert np.array_equal(one.attribution.values, two.attribution.values)
    other = explained(open_bundle(bundle, device="cpu", augmentations=4, seed=4), radiograph())
    assert not np.array_equal(one.attribution.values, other.attribution.values)
    assert one.provenance.parameters["augmentations"] == 4
    assert one.prediction.probability == pytest.approx(two.prediction.probability)


def test_without_augmentation_the_map_is_the_difference_of_the_images_weighted_by_the_gate(bundle):
    explainer = open_bundle(bundle, device="cpu", augmentations=0)
    explanation = explained(explainer, radiograph(64, 64))
    difference = torch.from_numpy(np.abs(explanation.similar.image - explanation.adversarial.image))[None, None]
    x = torch.from_numpy(explanation.seen)[None, None]
    with torch.no_grad():
        decision = explainer.decisions(explainer.probabilities(x))
        seen = look(explainer.bundle.tempered().eval(), x)
        weights = load(bundle).generators.eval().weights(seen, decision, (64, 64))
    shown = weighted_blur(difference * weights, BLUR * 64)[0, 0].numpy()
    assert not np.allclose(shown, weighted_blur(difference, BLUR * 64)[0, 0].numpy(), atol=1e-5)
    np.testing.assert_allclose(explanation.attribution.values, shown, atol=1e-6)
    assert explanation.provenance.parameters == {"augmentations": 0, "blur": BLUR}


def test_classify_says_what_explain_says(bundle):
    explainer = open_bundle(bundle, device="cpu", augmentations=2)
    assessment, explanation = explainer.classify(radiograph()), explained(explainer, radiograph())
    assert assessment.prediction == explanation.prediction
    assert assessment.out_of_distribution == explanation.out_of_distribution
    assert assessment == explanation.assessment
    assert (assessment.provenance.method, assessment.provenance.parameters) == ("classification", {})


def test_the_margin_of_the_bundle_reaches_the_prediction(bundle, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(bundle, folder)
    text = (folder / "bundle.toml").read_text()
    assert "\nmargin = " in text
    (folder / "bundle.toml").write_text(re.sub(r"\nmargin = .*", "\nmargin = 0.07", text))
    sign(folder)
    assert open_bundle(folder, device="cpu").classify(radiograph()).prediction.margin == 0.07


def test_the_shown_images_are_one_grid_in_the_sources_aspect_ratio(bundle):
    explanation = explained(open_bundle(bundle, device="cpu", augmentations=0), radiograph(120, 90))
    assert explanation.seen.shape == explanation.similar.image.shape == explanation.adversarial.image.shape
    assert explanation.seen.shape == (64, 48)
    assert explanation.seen.min() >= 0
    assert explanation.seen.max() > 0.7


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_deletion_follows_the_decided_class(bundle, tmp_path, threshold):
    folder = tmp_path / "copy"
    shutil.copytree(bundle, folder)
    text = (folder / "bundle.toml").read_text()
    text = re.sub(r"^threshold = .*$", f"threshold = {threshold}", text, flags=re.MULTILINE)
    (folder / "bundle.toml").write_text(text)
    sign(folder)
    explainer = open_bundle(folder, device="cpu", augmentations=0)
    explanation = explained(explainer, radiograph(64, 64))
    probability = explanation.prediction.probability
    decided = probability if threshold == 0 else 1 - probability
    assert explanation.prediction.positive is (threshold == 0)
    assert explanation.deletion == pytest.approx(decided, abs=0.1), "an untrained classifier hardly changes"
    assert abs(explanation.deletion - (1 - decided)) > 0.001


def test_a_far_image_is_called_far_and_a_bundle_may_not_say(bundle, nih_folder, tmp_path):
    known = load_pixels(nih_folder / "images" / "00000005_000.jpg")
    explainer = open_bundle(bundle, device="cpu", augmentations=0)
    judged = [
        explainer.classify(Radiograph(pixels=pixels, spacing=None, orientation=None, source_id="x")).out_of_distribution
        for pixels in (known, np.linspace(0, 1, 9216, dtype=np.float32).reshape(96, 96))
    ]
    assert judged[1].far
    assert judged[0].score < judged[1].score
    assert "percentile of 16 validation images" in judged[0].measure
    assert judged[0].measure.isascii()

    folder = tmp_path / "copy"
    shutil.copytree(bundle, folder)
    (folder / "outlier.safetensors").unlink()
    sign(folder)
    with pytest.raises(BundleError, match=r"\[outlier\] needs outlier\.safetensors"):
        load(folder)
    text = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(text[: text.index("[outlier]")])
    sign(folder)
    assert open_bundle(folder, device="cpu").classify(radiograph()).out_of_distribution is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (f"blur = {BLUR}", "blur = -0.1", "the blur of a heatmap is a finite number >= 0, got -0.1"),
        (f"blur = {BLUR}", "blur = nan", "the blur of a heatmap is a finite number >= 0, got nan"),
        (f"blur = {BLUR}", "opening = 5", "unexpected keyword argument 'opening'"),
        (f"augmentations = {COPIES}", "augmentations = -1", "augmentations is a whole number >= 0, got -1"),
        (f"augmentations = {COPIES}", "augmentations = 2.5", "augmentations is a whole number >= 0, got 2.5"),
    ],
)
def test_a_heatmap_table_that_is_none_is_refused(bundle, tmp_path, old, new, said):
    folder = tmp_path / "copy"
    shutil.copytree(bundle, folder)
    text = (folder / "bundle.toml").read_text()
    assert old in text
    (folder / "bundle.toml").write_text(text.replace(old, new))
    sign(folder)
    with pytest.raises(BundleError, match=re.escape(said)):
        load(folder)


@pytest.mark.parametrize("heatmap", ["[heatmap]\nfull_scale = 0.1\nsalient = 0.1\nopening = 5\nunit = 'x'\n", ""])
def test_a_bundle_of_an_earlier_version_is_refused_with_the_command_that_makes_one(bundle, tmp_path, heatmap):
    folder = tmp_path / "copy"
    shutil.copytree(bundle, folder)
    text = (folder / "bundle.toml").read_text()
    start, end = text.index("[heatmap]"), text.index("[outlier]")
    (folder / "bundle.toml").write_text(f"{text[:start]}{heatmap}{text[end:]}")
    sign(folder)
    with pytest.raises(
        BundleError, match=r"bundle\.toml has no table \[heatmap\.METHOD\]: an earlier version .*"
    ) as error:
        load(folder)
    assert "`python -m training bundle` makes a new one" in str(error.value)


def test_the_bundle_says_how_many_copies_are_averaged_where_nobody_else_does(bundle, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(bundle, folder)
    assert open_bundle(folder, device="cpu").augmentations == COPIES
    text = (folder / "bundle.toml").read_text()
    assert text.count(f"augmentations = {COPIES}\n") == 1
    (folder / "bundle.toml").write_text(text.replace(f"augmentations = {COPIES}\n", ""))
    sign(folder)
    assert open_bundle(folder, device="cpu").augmentations == 10
    assert open_bundle(folder, device="cpu", augmentations=3).augmentations == 3


def test_two_processes_make_the_same_bytes(bundle):
    program = (
        "import hashlib, sys, numpy as np; from pathlib import Path; from explain_core.explainer import open_bundle;"
        "from explain_core.radiograph import Radiograph;"
        "pixels = np.random.default_rng(1).random((120, 90), np.float32);"
        "(made,) = open_bundle(Path(sys.argv[1]), device='cpu', augmentations=2).explain("
        "Radiograph(pixels=pixels, spacing=None, orientation=None, source_id='x'), ['similar_adversarial']);"
        "parts = [made.attribution.values, made.attribution.covered, made.seen, made.similar.image,"
        "made.adversarial.image,"
        "np.array([made.prediction.probability, made.deletion, made.out_of_distribution.score])];"
        "print(hashlib.sha256(b''.join(part.tobytes() for part in parts)).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program, str(bundle)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
