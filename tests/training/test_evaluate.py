"""`python -m training evaluate` on a small bundle: every figure, its controls, its intervals, and what it says."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from explain_core.blur import BLUR
from explain_core.bundles.files import write_sums
from explain_core.classifier import offers
from explain_core.explainer import open_bundle
from explain_core.quality.localisation import location_prior
from training import datasets
from training.__main__ import main
from training.bundle import COPIES
from training.datasets import loading
from training.errors import TrainingError
from training.measure import evaluate, localisation
from training.measure.classification import classification
from training.measure.decisions import CHANGES, transfer
from training.measure.estimates import mean_of
from training.measure.localisation import Boxed
from training.report import evaluation
from training.runs import second_classifier
from training.runs.evidence_classifier import EvidenceSettings
from training.runs.evidence_targets import OUTPUTS
from training.runs.image_classifier import ImageClassifierSettings

SIDE = 48


@pytest.fixture(scope="module")
def second(nih_folder, tmp_path_factory):
    """A classifier of another backbone, trained for a second."""
    out = tmp_path_factory.mktemp("second")
    settings = ImageClassifierSettings(seed=1, epochs=1, batch=4, device="cpu")
    made = second_classifier.train(f"nih:{nih_folder}", out, settings=settings, size=32)
    return out, made


@pytest.fixture(scope="module")
def figures(bundle, nih_folder, second):
    return evaluate.evaluate(bundle, f"nih:{nih_folder}", second=second[0], optimum=True, draws=50)


@pytest.mark.slow
def test_every_figure_is_there_with_its_interval(figures):
    json.dumps(figures, allow_nan=False)
    assert set(figures["classification"]) == set(figures["counterfactuals"]) == {"all", "AP", "PA"}
    everything = figures["counterfactuals"]["all"]
    assert everything["images"] == 16
    assert everything["flip_rate"]["images"] == 16
    low, high = everything["psnr_x_a"]["interval"]
    assert low <= everything["psnr_x_a"]["value"] <= high
    assert set(figures["faithfulness"]["all"]) == {"images", "whole", "hottest", "random", "random_pixels", "without"}
    assert figures["faithfulness"]["all"]["whole"]["value"] == everything["flip_rate"]["value"]
    assert set(figures["stability"]) == {"shift", "noise", "jpeg"}
    assert figures["transfer"]["second"] == "resnet20"
    rates = {"positive", "negative", "positive_all", "negative_all", "own", "psnr"}
    for name in CHANGES:
        assert set(figures["transfer"][name]) == rates
    transfer = figures["transfer"]
    assert transfer["x_a"]["own"]["value"] == everything["flip_rate"]["value"]
    assert transfer["smooth"]["psnr"]["value"] == pytest.approx(everything["psnr_x_a"]["value"], abs=1)
    assert transfer["twice"]["psnr"]["value"] < transfer["x_a"]["psnr"]["value"]
    put, negative = transfer["opacity"]["own"] or {}, everything["flip_rate_negative"] or {}
    assert put.get("images") == negative.get("images"), "into images called negative, and into no other"


@pytest.mark.slow
def test_every_map_stands_beside_every_control(figures):
    part = figures["localisation"]["parts"]["all"]
    rows = part["rows"]
    assert {*localisation.OURS, "equal_blur", "shuffled_boxes", "shuffled_evidence", "location_prior", "centre",
            "random", "perfect_mask"} == set(rows)  # fmt: skip
    # the boxes are all alike, so the training boxes' mean is a perfect prior, and other images' boxes are one's own
    assert rows["location_prior"]["iou"][2]["value"] == pytest.approx(rows["perfect_mask"]["iou"][2]["value"])
    assert rows["shuffled_boxes"]["iou"][2]["value"] == pytest.approx(rows["delivered"]["iou"][2]["value"])
    assert {name for name, row in rows.items() if "gain" in row} == set(localisation.OURS)
    delivered = rows["delivered"]
    gained = delivered["iou"][2]["value"] - rows["location_prior"]["iou"][2]["value"]
    assert delivered["gain"]["iou"][2]["value"] == pytest.approx(gained)
    assert {"1 box", "view AP", "view PA"} < set(figures["localisation"]["parts"])


@pytest.mark.slow
def test_the_delivered_map_is_the_bundles_own(bundle, nih_folder, figures):
    explainer = open_bundle(bundle, device="cpu")
    samples = [s for s in datasets.read(f"nih:{nih_folder}") if s.fold in {0, 1} and s.boxes]
    images = loading.load_inputs(samples, explainer.bundle.input_spec)
    made = localisation.maps_of(explainer, images)
    x = images[:1].float() / 255
    y = explainer.decisions(explainer.probabilities(x))
    shown = explainer.shown(x, y)[0][0, 0].numpy()
    assert np.array_equal(made["delivered"][0], shown)
    once = open_bundle(bundle, device="cpu", augmentations=0)
    assert np.array_equal(made["evidence_blurred"][0], once.shown(x, y, "evidence")[0][0, 0].numpy())
    assert not np.array_equal(made["one_pass"][0], shown)
    assert figures["bundle"]["augmentations"] == explainer.augmentations == COPIES
    assert figures["bundle"]["blur"] == BLUR


@pytest.mark.slow
def test_what_was_measured_reads_in_two_lines_and_against_its_targets(figures):
    page = evaluation.markdown(figures)
    first, _, second_line, *_ = page.splitlines()
    assert first.startswith("**Where:** on 8 images of patients nobody trained on, the delivered map overlaps")
    assert second_line.startswith("**Why:** the change that it shows reverses")
    assert "of another network" in second_line
    for target in evaluation.TARGETS:
        assert f"| {target.name} |" in page
    assert "nan" not in page
    lines = page.splitlines()
    for line, following in itertools.pairwise(lines):
        if line.startswith("|") and following.startswith("|"):
            assert line.count("|") == following.count("|"), "a cell with a bar of its own breaks its table"


def entry(value, low):
    return {"a": {"value": value, "interval": [low, value + 0.1], "images": 9}}


def test_a_target_is_met_only_where_its_interval_allows():
    target = evaluation.Target(name="gain", path=("a",), floor=0.05, goal=0.12, excludes_zero=True)
    assert target.verdict(entry(0.06, 0.01)) == "floor met"
    assert target.verdict(entry(0.13, 0.01)) == "goal met"
    assert target.verdict(entry(0.13, -0.01)) == "**not met**"
    assert target.verdict(entry(0.04, 0.01)) == "**not met**"
    assert target.verdict({}) == "not measured"
    least = evaluation.Target(name="random", path=("a",), floor=0.15, goal=0.15, at_most=True)
    assert [least.verdict(entry(value, 0)) for value in (0.1, 0.2)] == ["met", "**not met**"]


def test_patients_are_resampled_not_images():
    values = np.array([1.0] * 50 + [0.0] * 50 + [0.5] * 10)
    whole = np.array(["a"] * 50 + ["b"] * 50 + [f"p{i}" for i in range(10)])
    single = np.arange(len(values)).astype(str)
    widths = [np.diff(mean_of(values, who, 500)["interval"])[0] for who in (whole, single)]
    assert widths[0] > 2 * widths[1], "fifty equal images of one patient are one observation"


def test_a_mean_leaves_out_what_is_not_known():
    assert mean_of(np.array([1.0, np.nan, 0.0]), np.array(["a", "b", "c"]), 20)["value"] == 0.5
    assert mean_of(np.array([np.nan]), np.array(["a"]), 20) is None


def test_opacity_against_other_abnormal_is_judged_on_what_experts_said(nih_folder):
    samples = datasets.read(f"nih:{nih_folder}").samples[:6]
    kinds = [
        (1, "expert"),
        (1, "expert"),
        (None, "expert_other"),
        (None, "expert_other"),
        (1, "textmined"),
        (0, "expert"),
    ]
    made = [replace(s, target=t, target_source=k) for s, (t, k) in zip(samples, kinds, strict=True)]
    everyone = np.ones(6, np.bool_)
    found = classification(made, np.array([0.9, 0.4, 0.6, 0.1, 0.0, 0.99]), everyone, 20)
    hard = found["opacity_against_other"]
    assert (hard["images"], hard["positive"], hard["auc"]["value"]) == (4, 2, 0.75)
    assert (found["expert"]["images"], found["all_labelled"]["images"]) == (3, 4)


def boxed(truths, prior):
    count = len(truths)
    return Boxed(
        images=None, truths=truths, patients=np.array([str(i) for i in range(count)]), views=[""] * count,
        boxes=[1] * count, prior=prior,
    )  # fmt: skip


def test_a_map_that_sees_no_image_scores_as_well_on_other_images_boxes():
    generator = np.random.default_rng(0)
    truths = []
    for _ in range(40):
        mask = np.zeros((SIDE, SIDE), np.bool_)
        row, column = generator.integers(0, SIDE - 12, 2)
        mask[row : row + 12, column : column + 12] = True
        truths.append(mask)
    prior = location_prior(truths)
    constant = [prior.astype(np.float32)] * len(truths)
    own = [truth.astype(np.float32) for truth in truths]
    rows = localisation.scored(
        {"delivered": own, "one_pass": own, "ten_copies": own, "evidence": constant}, boxed(truths, prior)
    )
    iou = {name: row["iou"][:, 2].mean() for name, row in rows.items()}
    assert iou["shuffled_evidence"] == pytest.approx(iou["location_prior"], abs=0.01)
    assert iou["delivered"] == pytest.approx(iou["perfect_mask"])
    assert iou["shuffled_boxes"] < iou["delivered"] / 2


def test_transfer_counts_what_both_decided_alike():
    found = {
        "f_x": np.array([0.9, 0.8, 0.2, 0.1]),
        "second_x": np.array([1.0, 1, 0, 1]),
        "second_x_a": np.array([0.0, 1, 1, 1]),
        "second_smooth": np.array([1.0, 1, 0, 1]),
        "second_other": np.array([1.0, 0, 0, 0]),
        "second_opacity": np.array([np.nan, np.nan, 1, 0]),
    }
    found |= {f"first_{name}": np.array([0.0, 0, 0, 0]) for name in ("x_a", "smooth", "other")}
    found["first_opacity"] = np.array([np.nan, np.nan, 1, 0])
    found |= {f"psnr_of_{name}": np.full(4, 30.0) for name in ("x_a", "smooth", "other", "opacity")}
    figures = transfer(found, 0.5, np.array(["a", "b", "c", "d"]), 20)
    assert figures["agreed"]["value"] == 0.75
    assert figures["x_a"]["positive"]["value"] == 0.5
    assert (figures["x_a"]["negative"]["value"], figures["x_a"]["negative"]["images"]) == (1, 1)
    assert figures["smooth"]["positive"]["value"] == 0
    assert figures["other"]["negative_all"]["value"] == 0.5
    assert (figures["x_a"]["own"]["value"], figures["x_a"]["psnr"]["value"]) == (0.5, 30)
    put = figures["opacity"]
    assert (put["negative"]["value"], put["negative"]["images"]) == (1, 1), "the one that both call negative"
    assert (put["negative_all"]["value"], put["negative_all"]["images"], put["own"]["value"]) == (1, 2, 0.5)
    assert put["positive"] is None, "no opacity is put where one is found"


@pytest.mark.slow
def test_a_bundle_stands_in_for_a_second_classifier(bundle, second, nih_folder):
    opened = second_classifier.open_second(bundle, "cpu")
    assert (opened.name, opened.size) == ("toy 0.0.1", 64)
    out, made = second
    other = second_classifier.open_second(out, "cpu")
    assert (other.size, other.threshold) == (32, made["threshold"])
    images = loading.load_inputs(datasets.read(f"nih:{nih_folder}").samples[:4], open_bundle(bundle).bundle.input_spec)
    assert set(other.decide(images.float() / 255).tolist()) <= {0, 1}


@pytest.mark.slow
def test_a_second_classifier_may_decide_by_maps(nih_folder, second, tmp_path):
    """Its labels' threshold and figures are those of any; what its maps learn from may be images of parts."""
    settings = EvidenceSettings(copies=1, epochs=1, noise_epochs=1, batch=4, part_batch=2, device="cpu")
    made = second_classifier.train(f"nih:{nih_folder}", tmp_path, settings=settings, size=64)
    assert (made["architecture"], made["outputs"], made["size"]) == ("evidence_lite0", len(OUTPUTS), 64)
    assert made["training_images"] == second[1]["training_images"]
    opened = second_classifier.open_second(tmp_path, "cpu")
    assert offers(opened.network, "evidence")
    images = torch.rand(3, 1, 48, 48)
    assert opened.decide(images).tolist() == (opened.probabilities(images) >= made["threshold"]).long().tolist()
    of_labels = second_classifier.SETTINGS
    with pytest.raises(TrainingError, match=r"resnet20 learns from whole images alone"):
        second_classifier.train(f"nih:{nih_folder}", tmp_path, settings=of_labels, parts="rsna_lungs:x")


@pytest.mark.slow
def test_a_second_classifier_never_sees_test_patients_and_goes_on(second, nih_folder, tmp_path):
    out, made = second
    labelled = [s for s in datasets.read(f"nih:{nih_folder}") if s.target is not None]
    assert made["training_images"] == sum(s.split == "train" for s in labelled)
    assert made["validation_images"] == sum(s.split == "validation" for s in labelled)
    settings = ImageClassifierSettings(seed=1, epochs=1, batch=4, device="cpu")
    assert second_classifier.train(f"nih:{nih_folder}", out, settings=settings, size=32) == made
    with pytest.raises(TrainingError, match=r"no bundle, and no second\.json and classifier\.pt"):
        second_classifier.open_second(tmp_path)


@pytest.mark.slow
def test_the_command_writes_page_and_figures(bundle, nih_folder, tmp_path, monkeypatch, capsys):
    out, page = tmp_path / "figures.json", tmp_path / "model.md"
    command = ["training", "evaluate", "--bundle", str(bundle), "--data", f"nih:{nih_folder}", "--draws", "20"]
    monkeypatch.setattr("sys.argv", [*command, "--json", str(out), "--markdown", str(page)])
    main()
    assert "transfer" not in json.loads(out.read_text())
    text = page.read_text()
    assert text.startswith("# Model: toy 0.0.1\n\nMade by `python -m training evaluate --bundle ")
    assert "| noise on the model's grid |" in text
    assert "**Where:**" in capsys.readouterr().out


def test_folds_without_a_patient_are_refused(bundle, nih_folder):
    with pytest.raises(TrainingError, match=r"no image of a patient in folds \[7\]"):
        evaluate.evaluate(bundle, f"nih:{nih_folder}", folds=frozenset({7}))


@pytest.mark.slow
def test_a_bundle_that_averages_says_so(bundle, nih_folder, tmp_path):
    import shutil

    folder = Path(shutil.copytree(bundle, tmp_path / "copy"))
    text = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(text.replace(f"augmentations = {COPIES}", "augmentations = 2"))
    write_sums(folder)
    figures = evaluate.evaluate(folder, f"nih:{nih_folder}", draws=10)
    assert figures["bundle"]["augmentations"] == 2
    assert f"Copies averaged for the delivered map 2, blur {100 * BLUR:.1f}% of the width." in evaluation.markdown(
        figures
    )
