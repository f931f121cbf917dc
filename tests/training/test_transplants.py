"""Lungs put into another's chest: only lungs change, boxes move with them, and no outline tells the label."""

import csv
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from explain_core.geometry import InputSpec
from training import bundle as command
from training import datasets
from training.datasets import DatasetError, Sample
from training.errors import TrainingError
from training.runs import second_classifier, transplants
from training.runs.evidence_targets import Lessons
from training.runs.image_classifier import ImageClassifierSettings
from training.runs.transplants import SIDE, TRUST, of_transplants, parts_of

SPEC = InputSpec(size=64)


def lungs_of(left=60, top=60, right=260, bottom=260, missing=None):
    """Two upright blocks between these columns and rows, without the rows of `missing` in the left one."""
    mask = np.zeros((SIDE, SIDE), np.bool_)
    middle = (left + right) // 2
    mask[top:bottom, left : middle - 20] = True
    mask[top:bottom, middle + 20 : right] = True
    if missing is not None:
        mask[missing[0] : missing[1], left : middle - 20] = False
    return mask


def chest(grey, seed):
    noise = np.random.default_rng(seed).random((SIDE, SIDE)).astype(np.float32)
    return lambda: np.clip(grey + 0.1 * noise, 0, 1)


def host(seed, target=0, mask=None):
    shown = lungs_of(40, 40, 280, 280) if mask is None else mask
    return Sample(
        path=Path(f"h{seed}"), patient_id=f"h{seed}", fold=4, view="PA", target=target, target_source="expert",
        pixels=chest(0.2, seed), shape=(SIDE, SIDE), lungs=lambda: shown,
    )  # fmt: skip


def part(seed, boxes=(), mask=None):
    shown = lungs_of() if mask is None else mask
    return Sample(
        path=Path(f"p{seed}"), patient_id=f"p{seed}", fold=-1, view="AP", target=1 if boxes else 0,
        target_source="expert", pixels=chest(0.5, 100 + seed), shape=(SIDE, SIDE), boxes=boxes, visible=lambda: shown,
    )  # fmt: skip


BOX = (60 / SIDE, 100 / SIDE, 80 / SIDE, 60 / SIDE)
"""The rows 100 to 160 of the left lung of a part."""


def test_only_lungs_change_and_labels_and_boxes_come_along():
    lessons = of_transplants([part(0, (BOX,)), part(1)], [host(0)], SPEC)
    assert isinstance(lessons, Lessons)
    assert lessons.labels[:, 0].tolist() == [1, 0]
    assert not lessons.labels[:, 1:].any()
    assert lessons.trust[:, 0].tolist() == [TRUST, TRUST]
    assert not lessons.trust[:, 1:].any()
    assert not lessons.map_trust[:, 1:].any()
    plain = datasets.load_inputs([host(0)], SPEC)[0].float()
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[8:56, 8:56] = False
    for image in lessons.images.float():
        assert (image - plain)[0, outside].abs().mean() < 8, "the host's chest, but for the stretch of its grey"
    inside = torch.from_numpy(datasets.union_mask([(60 / 320, 80 / 320, 40 / 320, 160 / 320)], 64))
    assert (lessons.images[1].float() - plain)[0, inside].abs().mean() > 20, "its lungs are another's"
    ((x, y, width, height),) = lessons.boxes[0][0]
    assert (x, y) == pytest.approx((40 / SIDE, (100 - 60) * 1.2 / SIDE + 40 / SIDE))
    assert (width, height) == pytest.approx((80 * 1.2 / SIDE, 60 * 1.2 / SIDE)), "lungs of 200 pixels in lungs of 240"


def test_boxes_move_as_the_pixels_in_them_do():
    box = (0.3, 0.4, 0.2, 0.25)
    onto = transplants._onto((40.0, 30.0, 280.0, 300.0), (60.0, 80.0, 250.0, 270.0))[None]
    marked = transplants._stacked([datasets.union_mask([box], SIDE)])
    moved = transplants._moved(marked, onto)[0, 0] > 0.5
    named = datasets.union_mask(transplants._boxes([box], onto[0].numpy()), SIDE)
    assert named.sum() > 1000
    assert np.count_nonzero(moved.numpy() ^ named) < 0.05 * named.sum(), "to a pixel at the edges"


def test_outlines_tell_nothing():
    """Of masks that give the label away in full, the outlines of transplants of both labels are the same."""
    low, high = lungs_of(missing=(60, 110)), lungs_of(missing=(210, 260))  # with and without an opacity
    box = (180 / SIDE, 140 / SIDE, 60 / SIDE, 60 / SIDE)
    parts = [part(index, (box,) if index % 2 else (), low if index % 2 else high) for index in range(8)]
    flat = [replace(one, pixels=lambda: GREY) for one in parts]
    lessons = of_transplants(flat, [host(0)], SPEC)
    with_, without = (
        lessons.images[lessons.labels[:, 0] == 1].float(),
        lessons.images[lessons.labels[:, 0] == 0].float(),
    )
    assert (with_.mean(0) - without.mean(0)).abs().max() < 2, "even grey in both: only outlines could differ"
    alone = of_transplants([*flat[1::2], part(9, (), low)], [host(0)], SPEC).images.float()
    assert (alone[0] - with_[0]).abs().max() > 10, "the partner's outline is what made them alike"


GREY = np.full((SIDE, SIDE), 0.5, np.float32)


def test_a_box_that_is_cut_off_is_not_known():
    hidden = lungs_of(missing=(60, 180))
    lessons = of_transplants([part(0, (BOX,), hidden), part(1, (BOX,)), part(2)], [host(0)], SPEC)
    assert lessons.trust[:, 0].tolist() == [0, TRUST, TRUST], "nobody sees that opacity"
    assert lessons.labels[0, 0] == 1
    truth = lessons.truths()[0, 0] > 0
    assert truth.any()
    assert lessons.visible[0, 0][truth].float().mean() < 0.25, "its cells teach neither way, but for its edge"
    assert lessons.visible[0, 0][~truth].float().mean() > 0.95
    assert lessons.visible[2].all()


def test_hosts_have_lungs_and_no_opacity():
    blank = replace(host(2), lungs=None)
    with pytest.raises(TrainingError, match="0 whole images without an opacity whose lungs are known, 1 images of"):
        of_transplants([part(0, (BOX,)), part(1)], [host(0, target=1), blank], SPEC)
    for several in ([part(0, (BOX,))], [part(1)]):
        with pytest.raises(TrainingError, match="transplants need some of each"):
            of_transplants(several, [host(0)], SPEC)
    assert len(of_transplants([part(0, (BOX,)), part(1)], [host(0, target=None)], SPEC)) == 2


def test_the_same_seed_makes_the_same_transplants():
    parts, whole = [part(0, (BOX,)), part(1), part(2)], [host(0), host(1), host(2)]
    first, again, other = (of_transplants(parts, whole, SPEC, seed) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_specks_and_empty_lungs_are_left_out():
    speck = lungs_of()
    speck[300:303, 300:303] = True
    assert transplants._extent(transplants._pieces(speck)) == (60.0, 60.0, 260.0, 260.0)
    nothing = np.zeros((SIDE, SIDE), np.bool_)
    lessons = of_transplants([part(0, (BOX,)), part(1), part(2, (), nothing)], [host(0)], SPEC)
    assert len(lessons) == 2


def stored(mask):
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def alone(tmp_path):
    """Six images of lungs alone, half with a box, of patients who are in no other folder."""
    folder = tmp_path / "alone"
    (folder / "images").mkdir(parents=True)
    mask = lungs_of()[::5, ::5]
    with (
        zipfile.ZipFile(folder / "masks_320.zip", "w") as archive,
        (folder / "labels.csv").open("w", newline="") as labels,
        (folder / "boxes.csv").open("w", newline="") as boxes,
    ):
        tables = csv.writer(labels), csv.writer(boxes)
        tables[0].writerow(["file", "rsna_class", "patient_id", "nih_match_mse", "view"])
        tables[1].writerow(["file", "x", "y", "width", "height"])
        for index in range(6):
            noise = np.random.default_rng(index).integers(40, 90, mask.shape)
            Image.fromarray(np.where(mask, noise, 70).astype(np.uint8)).save(folder / "images" / f"{index}.png")
            archive.writestr(f"{index}.png", stored(mask))
            tables[0].writerow([f"{index}.png", "Lung Opacity" if index % 2 else "Normal", 900 + index, 1, "AP"])
            if index % 2:
                tables[1].writerow([f"{index}.png", 200, 320, 250, 192])
    return folder


@pytest.fixture
def chests(nih_folder, tmp_path):
    """The small folder of whole images, as data whose lungs are known of two images in three."""
    folder = tmp_path / "lungs"
    folder.mkdir()
    with zipfile.ZipFile(folder / "masks_448.zip", "w") as archive:
        for index, path in enumerate(sorted((nih_folder / "images").iterdir())):
            if index % 3:
                archive.writestr(f"{path.stem}.png", stored(lungs_of(40, 40, 280, 280)))
    return f"nih:{nih_folder}?lungs={folder}"


def test_lungs_of_whole_images_are_read(chests, tmp_path):
    samples = datasets.read(chests)
    assert [sample.lungs is not None for sample in samples] == [index % 3 > 0 for index in range(40)]
    assert np.array_equal(samples[1].lungs(), lungs_of(40, 40, 280, 280))
    (tmp_path / "lungs" / "masks_448.zip").write_bytes(b"no archive")
    with pytest.raises(DatasetError, match=r"masks_448\.zip"):
        datasets.read(chests)
    with pytest.raises(DatasetError, match=r"masks_448\.zip is missing"):
        datasets.read(f"{chests}/elsewhere")


def test_the_second_of_a_pair_learns_from_transplants_where_lungs_are_known(
    chests, nih_folder, alone, recipe, tmp_path, capsys
):
    weights, says = {}, "no lungs of whole images are known: images of lungs alone teach maps and no labels"
    for name, data in {"known": chests, "unknown": f"nih:{nih_folder}"}.items():
        dataset = datasets.read(data)
        samples = {split: dataset.part(split) for split in ("train", "validation")}
        folders = [tmp_path / name / number for number in "12"]
        for folder in folders:
            folder.mkdir(parents=True)
        parts = parts_of(f"rsna_lungs:{alone}", dataset)
        command._trained(recipe.members, samples, parts, InputSpec(size=64), folders, command._imagenet())
        assert (says in capsys.readouterr().out) is (name == "unknown")
        weights[name] = [torch.load(folder / "classifier.pt")["fine.weight"] for folder in folders]
    assert torch.equal(weights["known"][0], weights["unknown"][0]), "the first never does"
    assert not torch.equal(weights["known"][1], weights["unknown"][1])


def test_a_second_classifier_learns_from_transplants_too(chests, alone, tmp_path):
    settings = ImageClassifierSettings(seed=1, epochs=1, batch=4, device="cpu")
    plain = second_classifier.train(chests, tmp_path / "plain", settings=settings, size=64)
    parts = f"rsna_lungs:{alone}"
    made = second_classifier.train(chests, tmp_path / "more", parts=parts, settings=settings, size=64)
    assert made["training_images"] == second_classifier.REPEATED * plain["training_images"] + 6
    assert made["validation_images"] == plain["validation_images"]
