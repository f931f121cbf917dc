"""Cross-fitted localisation: who is held out, what is kept, and that no model scores a patient it learnt from."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import crossfit, datasets
from training.__main__ import main
from training.crossfit import CrossFit, group_of, markdown, resplit
from training.errors import TrainingError

GROUPS = ((0, 1), (2,), (3, 4))


@pytest.fixture(scope="module")
def asked(nih_folder, recipe, tmp_path_factory):
    return CrossFit(
        data=f"nih:{nih_folder}", parts="", out=tmp_path_factory.mktemp("crossfit"), groups=GROUPS, bundles={},
        recipe=recipe, draws=20, say=lambda _: None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def figures(asked):
    return crossfit.crossfit(asked)


def test_each_group_is_held_out_once_and_the_next_one_chooses(nih_folder):
    dataset = datasets.read(f"nih:{nih_folder}")
    for number, group in enumerate(GROUPS):
        made = resplit(dataset, GROUPS, group)
        folds = {split: {s.fold for s in made.part(split)} for split in ("train", "validation", "test")}
        assert folds["test"] == set(group)
        assert folds["validation"] == set(GROUPS[(number + 1) % 3])
        assert folds["train"] == set(GROUPS[(number + 2) % 3])
        patients = [{s.patient_id for s in made.part(split)} for split in folds]
        assert not any(a & b for i, a in enumerate(patients) for b in patients[:i])


def test_folds_in_no_group_are_left_out(nih_folder):
    made = resplit(datasets.read(f"nih:{nih_folder}"), ((0,), (1,), (2,)), (1,))
    assert {s.fold for s in made if s.split} == {0, 1, 2}


@pytest.mark.parametrize("groups", [((0,), (1,)), ((0,), (0, 1), (2,))])
def test_groups_that_leave_nothing_to_learn_or_overlap_are_refused(nih_folder, groups):
    with pytest.raises(TrainingError, match="at least three groups of folds, none in two of them"):
        resplit(datasets.read(f"nih:{nih_folder}"), groups, groups[0])


def test_images_of_one_file_name_are_told_apart_by_their_folders(tmp_path, asked):
    rows = ["file,patient_id,target"]
    for number in range(12):
        (tmp_path / f"p{number}").mkdir()
        Image.fromarray(np.full((40, 40), 100 + number, np.uint8)).save(tmp_path / f"p{number}" / "frontal.png")
        rows.append(f"p{number}/frontal.png,p{number},{number % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    here = replace(asked, data=f"folder:{tmp_path}")
    dataset = datasets.read(here.data)
    chances = {crossfit._named(here, sample): float(sample.target) for sample in dataset}
    assert set(chances) == {f"p{number}/frontal.png" for number in range(12)}
    found = crossfit._decisions(here, dataset, {(0,): {"decisions": chances}})
    assert found["all_labelled"]["auc"]["value"] == 1
    assert (found["all_labelled"]["images"], found["all_labelled"]["positive"]) == (12, 6)


def test_a_group_is_read_from_its_folds():
    assert group_of("6,8") == (6, 8)
    with pytest.raises(TrainingError, match="written as 0,1; got '0-1'"):
        group_of("0-1")


@pytest.mark.slow
def test_every_image_with_boxes_is_scored_once(asked, figures, nih_folder):
    boxed = [s for s in datasets.read(f"nih:{nih_folder}") if s.boxes]
    part = figures["localisation"]["parts"]["all"]
    assert part["images"] == len(boxed)
    assert part["patients"] == len({s.patient_id for s in boxed})
    assert not figures["missing"]
    kept = [json.loads((asked.out / name / "scores.json").read_text()) for name in ("0,1", "2", "3,4")]
    assert sorted(name for one in kept for name in one["names"]) == sorted(crossfit._named(asked, s) for s in boxed)
    assert len({one["bundle"] for one in kept}) == 3
    every = [iou[2] for one in kept for iou in one["rows"]["delivered"]["iou"]]
    assert part["rows"]["delivered"]["iou"][2]["value"] == pytest.approx(np.mean(every), abs=1e-6)
    # the boxes are all alike, so each group's own prior is perfect
    assert part["rows"]["location_prior"]["iou"] == part["rows"]["perfect_mask"]["iou"]
    assert "gain" in part["rows"]["evidence"]
    text = markdown(figures)
    assert "by a model that never saw its patient, settings fixed: folds 0,1; 2; 3,4." in text
    everyone = datasets.read(f"nih:{nih_folder}")
    said = {name: x for one in kept for name, x in one["decisions"].items()}
    assert set(said) == {crossfit._named(asked, s) for s in everyone if s.fold in {0, 1, 2, 3, 4}}
    labelled = figures["classification"]["all_labelled"]
    assert labelled["images"] == sum(s.target is not None for s in everyone if crossfit._named(asked, s) in said)
    assert "AUC, all labelled" in text
    assert "evidence map" in text


@pytest.mark.slow
def test_a_second_start_makes_nothing_anew(asked, figures):
    before = {path: path.stat().st_mtime_ns for path in asked.out.rglob("*") if path.is_file()}
    assert crossfit.crossfit(asked) == figures
    assert before == {path: path.stat().st_mtime_ns for path in asked.out.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_group_that_is_not_done_is_said_to_be_missing(asked, figures, tmp_path):
    done = asked.out / "2" / "bundle"
    alone = replace(asked, out=tmp_path, bundles={(2,): done})
    found = crossfit.crossfit(alone, only=[(2,)])
    assert (found["missing"], list(found["groups"])) == (["0,1", "3,4"], ["2"])
    assert found["groups"]["2"] == figures["groups"]["2"], "a ready bundle is scored as the one made here"
    assert not (tmp_path / "2" / "work").exists()
    with pytest.raises(TrainingError, match=r"5: no such group of folds; there are 0,1, 2, 3,4"):
        crossfit.crossfit(alone, only=[(5,)])


@pytest.mark.slow
def test_the_command_pools_what_is_there(asked, figures, tmp_path, monkeypatch, capsys):
    assert figures["groups"]
    page = tmp_path / "page.md"
    command = ["training", "crossfit", "--data", asked.data, "--out", str(asked.out), "--groups", "0,1", "2", "3,4"]
    ready = [f"--bundle={name}={asked.out / name / 'bundle'}" for name in ("0,1", "2", "3,4")]
    monkeypatch.setattr("sys.argv", [*command, *ready, "--markdown", str(page)])
    main()
    assert Path(page).read_text().startswith("# Cross-fitted localisation\n\nMade by `python -m training crossfit ")
    assert "Gain over the location prior, paired" in capsys.readouterr().out
