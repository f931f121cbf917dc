"""Heatmap scale, margin and outlier model of a bundle: from known numbers, and set in a bundle as it is."""

import re
import shutil
import tomllib

import numpy as np
import pytest
import torch

from explain_core.bundles.bundle import load
from explain_core.bundles.files import digest_of, toml_text
from explain_core.errors import BundleError
from explain_core.explainer import open_bundle
from explain_core.explanation import HeatmapScale
from explain_core.geometry import InputSpec
from training import calibration, scales
from training.__main__ import main
from training.errors import TrainingError


def test_the_floor_leaves_most_of_a_film_clear_and_the_scale_spans_the_largest_values():
    values = np.linspace(0, 1, 100 * 64, dtype=np.float32).reshape(100, 8, 8)
    table = scales.heatmap_table(values)
    assert table["floor"] == pytest.approx(0.85, abs=2e-3)
    assert (values > table["floor"]).mean() == pytest.approx(0.15, abs=5e-3)
    assert table["full_scale"] == pytest.approx(np.percentile(values.max(axis=(1, 2)), 95), abs=2e-3)


def test_maps_are_made_of_images_called_positive_or_of_all_and_of_a_draw_where_that_takes_long():
    positive = np.arange(300) % 2 == 1
    assert scales._chosen(positive, "similar_adversarial") == list(range(1, 300, 2))
    assert scales._chosen(np.zeros(3, np.bool_), "similar_adversarial") == [0, 1, 2]
    slow = scales._chosen(positive, "mediffusion")
    assert len(slow) == scales.MOST_OF_SLOW
    assert slow == sorted(set(slow) & set(range(1, 300, 2)))
    assert scales._chosen(positive[:20], "mediffusion") == list(range(1, 20, 2))


def test_calm_maps_still_make_a_scale():
    HeatmapScale(**scales.heatmap_table(np.linspace(0, 0.1, 20 * 16).reshape(20, 4, 4)), unit="")
    calm = scales.heatmap_table(np.zeros((4, 4, 4)))
    assert calm["floor"] == 0
    HeatmapScale(**calm, unit="")


def test_shares_shown_count_paint_regions_and_area():
    maps = np.zeros((4, 100, 100), np.float32)
    maps[0, :10, :10] = 0.06
    maps[1, :10, :20] = 0.2
    maps[2, 0, 0] = 0.2  # a speck: painted, but no more
    found = scales.shares_shown(maps, {"floor": 0.05})
    assert found == {"images": 4, "painted": 0.75, "more_than_specks": 0.5, "painted_area": pytest.approx(301 / 40000)}
    assert scales.shares_shown(maps[:0], {"floor": 0}) == {"images": 0}


def test_probability_changes_are_those_of_moved_images(bundle):
    explainer = open_bundle(bundle, device="cpu")
    middle = slice(84, 140)
    explainer._classifier = lambda x: 10 * (x[:, :, middle, middle].mean(dim=(1, 2, 3)) - 0.5)[:, None]
    spots = torch.zeros(3, 1, 224, 224, dtype=torch.uint8)
    spots[1:, :, middle, middle] = 128
    spots[2] = 128
    changes = calibration.probability_changes(explainer, spots).reshape(calibration.TRANSFORMS, 3)
    assert changes.min() >= 0
    assert changes[:, [0, 2]].max() < 1e-5, "nothing moves in a flat image"
    assert 0.01 < changes[:, 1].mean() < 0.4, "what is moved out of the middle counts no more"
    assert np.ptp(changes[:, 1]) > 0.01, "each transform is another"


def test_the_card_says_it_once_however_often_it_is_written(bundle):
    card = (bundle / "model_card.md").read_text()
    figures = {
        "images": {"training": 1, "validation": 2},
        "heatmaps": {
            "similar_adversarial": {
                "table": {"floor": 0.123, "full_scale": 0.3, "blur": 0.035, "unit": "luminance"},
                "shown": {"images": 0},
            }
        },
        "margin": 0.1,
        "near_threshold": 0.2,
        "outlier_limit": 7.5,
        "far": {"negative": {"auc": 1.0, "beyond_limit": 0.5}},
    }
    assert card.count(calibration.HEADING) == 1
    once = calibration.card_with(card, figures)
    assert once == calibration.card_with(once, figures)
    assert once.count(calibration.HEADING) == 1
    assert "Floor 0.123" in once
    assert "Floor 0.123" not in card
    before, _, after = card.partition(calibration.HEADING)
    assert once.startswith(before)
    assert once.endswith(after[after.index("## Limits") :])
    without = before + after[after.index("## Limits") :]
    assert calibration.card_with(without, figures) == once


@pytest.mark.slow
def test_a_bundle_is_calibrated_in_place_and_its_weights_stay(bundle, nih_folder, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(bundle, folder)
    table = tomllib.loads((folder / "bundle.toml").read_text())
    del table["outlier"], table["margin"]
    table["heatmap"]["similar_adversarial"] |= {"full_scale": 0.9, "unit": "old"}
    (folder / "bundle.toml").write_text(toml_text(table))
    (folder / "outlier.safetensors").unlink()
    (folder / "reference.json").unlink()
    calibration.write_sums(folder)
    assert load(folder).reference is None
    before = load(folder).identity.digest
    monkeypatch.setattr("sys.argv", ["training", "calibrate", "--bundle", str(folder), "--data", f"nih:{nih_folder}"])
    main()
    said = capsys.readouterr().out
    assert "| noise on the model's grid |" in said
    assert "| noise, 2048 x 2048 pixels |" in said
    assert "no check that a file shows a chest" in said
    for name in ("classifier.safetensors", "generators.safetensors"):
        assert digest_of(folder / name) == digest_of(bundle / name)
    assert load(folder).identity.digest != before
    assert (folder / "bundle.toml").read_text() == (bundle / "bundle.toml").read_text()
    assert digest_of(folder / "outlier.safetensors") == digest_of(bundle / "outlier.safetensors")
    assert digest_of(folder / "reference.json") == digest_of(bundle / "reference.json")
    assert load(folder).reference["images"] == 16
    assert (folder / "outlier.safetensors").stat().st_size < 1_000_000


@pytest.mark.slow
def test_films_that_show_nothing_come_to_the_model_as_a_reader_would_send_them(monkeypatch):
    monkeypatch.setattr(calibration, "FILMS", 3)
    gradient = np.tile(np.linspace(0, 1, 48, dtype=np.float32), (60, 1))
    images = [gradient] * 4
    found = calibration.no_films(images, InputSpec(size=32))
    assert {len(films) for films in found.values()} == {3}
    assert {film.shape for films in found.values() for film in films} == {(32, 32)}
    fine, finer = (found[f"noise, {side} x {side} pixels"][0].std() for side in (1024, 2048))
    assert finer == pytest.approx(fine / 2, rel=0.1), "the grid averages over four times as many pixels"
    shuffled = found["its pixels shuffled, 1024 x 1024"][0]
    assert shuffled.mean() == pytest.approx(0.5, abs=0.02)
    assert shuffled.std() < 0.05 < gradient.std()
    black = next(films for name, films in found.items() if name.startswith("black"))[0]
    assert (black < 0.8).mean() > 0.98


def test_data_without_validation_patients_is_refused(bundle, nih_folder, tmp_path):
    folder = tmp_path / "nih"
    shutil.copytree(nih_folder, folder)
    rows = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join(row for row in rows if not row.endswith((",2", ",3"))) + "\n")
    with pytest.raises(TrainingError, match="validation patients"):
        calibration.calibrate(bundle, f"nih:{folder}")


@pytest.mark.slow
def test_a_method_gets_a_scale_of_its_own_and_nothing_else_changes(bundle, nih_folder, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(bundle, folder)
    before = load(folder)
    with pytest.raises(BundleError, match=r"method adversarial has no scale .* training scale BUNDLE --method adversa"):
        open_bundle(folder, device="cpu").require(["similar_adversarial", "adversarial"])
    command = ["training", "scale", str(folder), "--data", f"nih:{nih_folder}", "--method", "adversarial"]
    monkeypatch.setattr("sys.argv", [*command, "--blur", "0.02"])
    main()
    assert scales.heading("adversarial") in capsys.readouterr().out
    after = load(folder)
    assert after.identity.digest != before.identity.digest
    assert list(after.heatmaps) == ["similar_adversarial", "evidence", "adversarial"]
    for name in ("similar_adversarial", "evidence"):
        assert after.heatmaps[name] == before.heatmaps[name]
    made = after.heatmaps["adversarial"]
    assert made.blur == 0.02
    assert made.scale.unit == "|x - x_a|, luminance 0 to 1; mean of registered copies", "as the bundle says"
    assert 0 < made.scale.floor <= made.scale.full_scale < 1
    open_bundle(folder, device="cpu").require(["adversarial", "similar_adversarial"])
    card = (folder / "model_card.md").read_text()
    parts = [scales.heading(name) for name in after.heatmaps]
    places = [card.index(part) for part in (calibration.HEADING, *parts, calibration.DECISION, "## Limits")]
    assert places == sorted(places)
    monkeypatch.setattr("sys.argv", command)
    main()
    assert load(folder).heatmaps["adversarial"] == made, "the blur stays as it is; the same images, the same scale"
    assert (folder / "model_card.md").read_text() == card
    monkeypatch.setattr("sys.argv", [*command, "--images", "3"])
    capsys.readouterr()
    main()
    (called,) = re.findall(r"^Of (\d+) images called positive", capsys.readouterr().out, re.MULTILINE) or ["0"]
    assert int(called) <= 3
    assert load(folder).heatmaps["adversarial"].scale != made.scale


@pytest.mark.slow
def test_a_scale_needs_a_method_that_can_explain_the_bundle(bundle, nih_folder):
    with pytest.raises(BundleError, match=r"the method nothing cannot be loaded: .* has no 'nothing'; there is: "):
        calibration.scale(bundle, f"nih:{nih_folder}", ["nothing"])
    with pytest.raises(BundleError, match="the method mask_generator cannot explain this bundle: it needs what"):
        calibration.scale(bundle, f"nih:{nih_folder}", ["mask_generator"])
