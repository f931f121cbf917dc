"""The benchmark for real on small data: trains, explains, scores, reports, and goes on where it stopped."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from explain_core.bundles.bundle import load
from explain_core.bundles.files import write_sums
from explain_core.errors import ExplainError
from explain_core.generators.similar_adversarial import SimilarAdversarial
from training.benchmark import profiles, report, run
from training.benchmark.run import Request, benchmark
from training.bundle import COPIES
from training.datasets.tables import DatasetError

ROWS = ("single_2_w_tv", "gradient", "mask_generator")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The quick profile made smaller still."""
    quick = profiles.QUICK
    small = replace(
        quick,
        phantom="train=48&validation=24&test=24",
        size=32,
        classifier=replace(quick.classifier, epochs=1, batch=16),
        generators=replace(quick.generators, filters=(4, 8), steps=4, reconstruction_steps=1, batch=4, report_every=2),
        mask_generator=replace(quick.mask_generator, filters=(4, 8), steps=4, batch=4, report_every=2),
        boxed=8,
        faithfulness=2,
        cases=1,
        repeats=1,
        augmentations=3,
        randomised_rows=("single_2_w_tv", "mask_generator"),
    )
    monkeypatch.setitem(profiles.PROFILES, "quick", small)


@pytest.fixture
def onnx_bundle(tmp_path):
    """A bundle for 32 pixels whose classifier, an ONNX graph, tells bright images from dark ones."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        onnx.helper.make_node("Flatten", ["mean"], ["flat"]),
        onnx.helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
    ]
    values = {"weight": np.full((1, 1), 40, np.float32), "bias": np.full(1, -16, np.float32)}
    graph = onnx.helper.make_graph(
        nodes,
        "brightness",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1, 32, 32])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 1])],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "classifier.onnx")
    network = SimilarAdversarial([4, 8], output="identity")
    save_file(network.state_dict(), folder / "generators.safetensors")
    (folder / "model_card.md").write_text("for tests\n")
    (folder / "bundle.toml").write_text(
        'name = "bright"\nversion = "1"\nlabel = "Brightness"\nthreshold = 0.5\n'
        '[classifier]\narchitecture = "onnx"\noutputs = ["Brightness"]\n'
        '[generators]\nkind = "single"\nfilters = [4, 8]\nhead_layers = 2\noutput = "identity"\ndropout = 0.0\n'
        "decisions = 1\n"
        "[input]\nsize = 32\npercentiles = [0.5, 99.5]\n"
        "[augmentation]\ndegrees = 5.0\n"
        '[heatmap.similar_adversarial]\nfull_scale = 0.1\nunit = "none"\n'
    )
    write_sums(folder)
    return folder


def request(out, **changes):
    return Request(**{"data": "phantom", "profile": "quick", "out": out, "rows": ROWS, "device": "cpu", **changes})


@pytest.mark.slow
def test_every_table_has_its_figures_and_a_second_start_makes_nothing_anew(tmp_path, capfd):
    first = benchmark(request(tmp_path, command="python -m training benchmark ..."))
    said = capfd.readouterr()
    assert "training classifier" in said.err
    assert "validation_auc" in said.out
    assert '"step": 4' in said.out
    assert first["absent"] == {}
    rows = first["localisation"]["parts"]["all"]["rows"]
    expected = {name + suffix for name in ROWS for suffix in ("", "+blur", "+aug")}
    expected |= {f"blur:{name}+aug" for name in ROWS} | {f"random classifier:{name}+blur" for name in ROWS}
    assert set(rows) == expected | {"location_prior", "centre", "random", "perfect_mask", "shuffled_boxes"}
    assert rows["perfect_mask"]["iou"][2] == max(row["iou"][2] for row in rows.values())
    assert rows["location_prior"]["gain_over_prior"] is None
    assert first["localisation"]["best"] == "single_2_w_tv+aug"
    assert set(first["localisation"]["ahead"]) == set(rows) - {"single_2_w_tv+aug"}
    assert {"kept_rate", "flip_rate", "psnr_x_s", "ssim_s_a", "transfer", "part_hottest", "part_random",
            "part_without", "transfer_control"} <= set(first["generators"]["single_2_w_tv"])  # fmt: skip
    assert {"stable_shift", "stable_noise", "stable_jpeg"} <= set(first["faithfulness"]["gradient"])
    assert set(first["faithfulness"]) == {"random", *ROWS}
    assert set(first["faithfulness"]["random"]) == {"deletion", "insertion", "road"}
    assert {"deletion", "insertion", "road", "max_sensitivity", "randomisation"} <= set(
        first["faithfulness"]["gradient"]
    )
    for name in ROWS:
        assert first["timing"][name]["batch_1"] > 0
        assert first["timing"][f"{name}+aug"]["batch_16"] > 0
    assert (tmp_path / "figures" / "0.png").stat().st_size > 1000
    json.dumps(first)
    assert "Table VI" in report.markdown(first)
    assert "data:image/png" in report.html(first, tmp_path)

    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    second = benchmark(request(tmp_path))
    again = capfd.readouterr().out
    assert "validation_auc" not in again
    assert '"step"' not in again
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert second["localisation"] == first["localisation"]


@pytest.mark.slow
def test_the_randomisation_alone_trains_no_second_classifier_and_a_whole_run_goes_on_from_it(tmp_path):
    alone = benchmark(request(tmp_path, randomisation=True, rows=("single_2_w", *ROWS)))
    rows = alone["localisation"]["parts"]["all"]["rows"]
    tested = {f"{name}+blur" for name in ROWS} | {f"random classifier:{name}+blur" for name in ROWS}
    assert set(rows) == tested | {"location_prior", "centre", "random", "perfect_mask", "shuffled_boxes"}
    assert set(alone["faithfulness"]) == set(ROWS)
    assert all(set(entry) == {"randomisation", "randomisation_ssim"} for entry in alone["faithfulness"].values())
    assert alone["absent"] == {"single_2_w": "trained, and not among the profile's randomised rows"}
    assert not (tmp_path / "second_classifier").exists()
    text = report.markdown(alone)
    assert "| GradCAM" not in text
    assert "control: Gradient, blurred, classifier of random weights |" in text
    assert "| | similarity after model randomisation (lower) |" in text
    assert not any(title in text for title in ("Table", "Time and memory", "Where:"))
    whole = benchmark(request(tmp_path))
    of_whole = whole["localisation"]["parts"]["all"]["rows"]
    assert {name: of_whole[name] for name in tested} == {name: rows[name] for name in tested}
    for name in ROWS:
        assert whole["faithfulness"][name].items() >= alone["faithfulness"][name].items()


@pytest.mark.slow
def test_other_settings_are_not_answered_from_what_was_kept(tmp_path):
    first = benchmark(request(tmp_path, rows=("gradient",)))
    other = benchmark(request(tmp_path, rows=("gradient",), data="phantom?size=32&train=48&validation=24&test=30"))
    assert other["data"]["test"] != first["data"]["test"]
    assert other["localisation"]["parts"]["all"]["images"] >= first["localisation"]["parts"]["all"]["images"]


def images_without_boxes(folder):
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "patient_id", "target", "split"])
        for index in range(48):
            pixels = generator.integers(0, 120, (40, 40)) + 100 * (index % 2) * (np.arange(40) > 20)
            name = f"images/{index}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
            split = ("train", "train", "validation", "test")[index // 2 % 4]
            writer.writerow([name, index, index % 2, split])
        (folder / "images" / "broken.png").write_bytes(b"not an image")
        writer.writerow(["images/broken.png", 99, 1, "train"])
        writer.writerow(["images/gone.png", 98, 1, "train"])
    return folder


@pytest.mark.slow
def test_without_boxes_the_localisation_is_absent_and_bad_input_is_named(tmp_path):
    folder = images_without_boxes(tmp_path)
    found = benchmark(request(tmp_path / "out", data=f"folder:{folder}", rows=("single_2_w_tv", "gradient")))
    assert found["localisation"] is None
    assert found["generators"]["single_2_w_tv"]["flip_rate"] >= 0
    assert found["faithfulness"]["gradient"]["deletion"] >= 0
    assert sum(found["data"]["problem_counts"].values()) == 2
    named = {where.rsplit("/", 1)[-1] for _, where, _ in found["data"]["problems"]}
    assert named == {"broken.png", "gone.png"}
    page = report.markdown(found)
    assert "broken.png" in page
    assert "Table VI" not in page or "no image with boxes" in page.lower() or "-" in page


@pytest.mark.slow
def test_a_method_from_a_folder_is_a_row(tmp_path):
    methods = tmp_path / "methods"
    methods.mkdir()
    (methods / "brightness_row.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n\n\n"
        "@dataclass(frozen=True, slots=True, kw_only=True)\n"
        "class Brightness:\n"
        "    reference: ClassVar[str] = 'none'\n"
        "    needs_gradients: ClassVar[bool] = False\n"
        "    trained_by: ClassVar[str | None] = None\n\n"
        "    def __call__(self, classifier, images, classes):\n"
        "        return images.clone()\n\n\n"
        "PLUGIN = Brightness\n"
    )
    import explain_core.methods

    before = list(explain_core.methods.__path__)
    try:
        found = benchmark(request(tmp_path / "out", rows=("brightness_row",), plugins=methods))
    finally:
        explain_core.methods.__path__[:] = before
    assert "brightness_row+aug" in found["localisation"]["parts"]["all"]["rows"]


def test_wrong_requests_are_refused_in_one_line(tmp_path):
    with pytest.raises(ExplainError, match=r"--rows grdient: no such row; there is: features_gated, .*grad_cam"):
        benchmark(request(tmp_path, rows=("grdient",)))
    with pytest.raises(ExplainError, match="no image in the validation split"):
        benchmark(request(tmp_path, data="folder:" + str(only_training(tmp_path))))
    with pytest.raises(DatasetError, match="reader:folder"):
        benchmark(request(tmp_path, data="nowhere:x"))


def only_training(tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(folder / "a.png")
    (folder / "labels.csv").write_text("file,patient_id,target,split\na.png,1,1,train\n")
    return folder


@pytest.mark.slow
def test_a_bundle_without_gradients_leaves_out_what_needs_them_and_ends(tmp_path, onnx_bundle):
    found = benchmark(
        request(tmp_path / "out", bundle=onnx_bundle, rows=("bundle", "gradient", "single_2_w_tv"), profile="quick")
    )
    assert set(found["absent"]) == {"gradient", "single_2_w_tv"}
    assert "gradient needs gradients" in found["absent"]["gradient"]
    assert found["data"]["size"] == 32
    rows = found["localisation"]["parts"]["all"]["rows"]
    assert {"bundle", "bundle+aug", "bundle+blur", "delivered"} < set(rows)
    assert found["localisation"]["best"] == "delivered"
    assert found["timing"]["delivered"]["batch_1"] > 0
    assert found["generators"]["bundle"]["steps"] is None
    with pytest.raises(ExplainError, match="--size 64: the bundle's input has 32 pixels"):
        benchmark(request(tmp_path / "out", bundle=onnx_bundle, size=64))


@pytest.mark.slow
def test_a_classifier_of_other_images_is_refused(tmp_path):
    benchmark(request(tmp_path / "a", rows=("gradient",)))
    again = benchmark(request(tmp_path / "b", rows=("gradient",), classifier=tmp_path / "a" / "classifier"))
    assert again["classifier"]["auc"] is not None
    data = "phantom?size=32&train=50&validation=24&test=24"
    with pytest.raises(ExplainError, match="trained on other images"):
        benchmark(request(tmp_path / "c", rows=("gradient",), data=data, classifier=tmp_path / "a" / "classifier"))
    with pytest.raises(ExplainError, match=r"no classifier.json"):
        benchmark(request(tmp_path / "d", rows=("gradient",), classifier=tmp_path / "nowhere"))


@pytest.mark.slow
def test_conditioned_generators_explain_copies_under_the_images_own_decision(tmp_path):
    found = benchmark(request(tmp_path, rows=("single_2_w_tv",), decisions=2))
    assert found["generators"]["single_2_w_tv"]["heads"] == 2


def test_the_profiles_take_their_rows_from_table_i():
    for name in profiles.GENERATOR_ROWS:
        settings = profiles.FULL.generator_settings(name)
        assert settings.output == "plain"
        assert settings.decisions == 1
        assert (settings.weights.generators > 0) == ("_w" in name)
    assert run.BASELINES == profiles.BASELINES


@pytest.mark.slow
def test_a_bundle_on_features_is_explained_with_its_controls(tmp_path, bundle, nih_folder, monkeypatch):
    quick = profiles.PROFILES["quick"]
    few = replace(quick, size=64, randomised_rows=("features_gated",))
    monkeypatch.setitem(profiles.PROFILES, "quick", few)
    rows = ("bundle", "features_gated", "evidence", "optimum")
    once = shutil.copytree(bundle, tmp_path / "once")
    text = (once / "bundle.toml").read_text()
    (once / "bundle.toml").write_text(text.replace(f"augmentations = {COPIES}", "augmentations = 0"))
    write_sums(once)
    found = benchmark(request(tmp_path / "out", data=f"nih:{nih_folder}", bundle=once, second=once, rows=rows, steps=2))
    assert found["absent"] == {}
    made = found["localisation"]["parts"]["all"]["rows"]
    assert {"delivered", "bundle+blur", "features_gated+blur", "evidence+blur", "optimum+blur",
            "random classifier:features_gated+blur", "random classifier:evidence+blur"} < set(made)  # fmt: skip
    assert made["delivered"]["iou"] == pytest.approx(made["bundle+blur"]["iou"]), "this bundle delivers one pass"
    generators = found["generators"]["bundle"]
    assert (generators["heads"], generators["agreed"]) == (2, 1), "the second classifier is the first here"
    assert generators["transfer"] == generators["flip_rate"]
    page = report.markdown(found)
    assert "\nWhere: the delivered map of the bundle overlaps the boxes by IoU@90" in page
    assert "Maps as they are delivered" in page


def test_a_random_classifier_answers_images_differently_and_has_gradients(tmp_path, bundle, nih_folder):
    """Its norms are calibrated before they are folded away: without them it is a constant."""
    spec = run.InputSpec(size=load(bundle).input_spec.size)
    images = run.cohort.load(run.datasets.read(f"nih:{nih_folder}"), spec)[0]
    bench = run.Bench(profiles.FULL, images, tmp_path, run.choose_device("cpu"), lambda _: None, bundle=bundle)
    chance = bench.random_classifier
    x = run.floats(images.images[:8], bench.device).requires_grad_()
    logits = chance(x)[:, 0]
    assert logits.std() > 1e-3
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert gradient.abs().max() > 1e-3
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in chance.modules()), (
        "it runs fused, as the other"
    )
    assert torch.equal(chance(x), run.Bench(profiles.FULL, images, tmp_path, bench.device, print, bundle=bundle)
                       .random_classifier(x))  # fmt: skip


@pytest.mark.slow
def test_on_a_classifier_without_features_rows_that_need_them_say_so(tmp_path):
    found = benchmark(request(tmp_path, rows=("features", "evidence", "gradient")))
    assert "offers no features" in found["absent"]["features"]
    assert "has none" in found["absent"]["evidence"]
    assert "gradient+blur" in found["localisation"]["parts"]["all"]["rows"]


@pytest.mark.slow
def test_the_second_classifier_decides_at_a_threshold_of_its_own(tmp_path):
    bench = run.Bench(
        profiles.PROFILES["quick"], run.cohort.load(run.datasets.read("phantom?size=32&train=48&validation=24&test=24"),
        run.InputSpec(size=32))[0], tmp_path, run.choose_device("cpu"), lambda _: None,
    )  # fmt: skip
    logits = bench.logits(bench.validation.labelled().images, bench.second)
    called = 1 / (1 + np.exp(-logits[:, 0])) >= bench.second_rule.threshold
    targets = bench.validation.labelled().targets
    gain = called[targets == 1].mean() - called[targets == 0].mean()
    for other in np.linspace(0.05, 0.95, 19):
        at = 1 / (1 + np.exp(-logits[:, 0])) >= other
        assert at[targets == 1].mean() - at[targets == 0].mean() <= gain + 1e-9
