import shutil
from dataclasses import replace

import numpy as np
import pytest

from explain_core.geometry import InputSpec
from training import cohort, datasets
from training.datasets import loading, masks, tables
from training.datasets.tables import counted
from training.splits import TEST_FOLDS, VALIDATION_FOLDS


def test_no_patient_is_in_two_parts_of_the_split(shared_data):
    folds = {}
    for sample in datasets.read(f"nih:{shared_data / 'nih_cxr14_subset'}"):
        folds.setdefault(sample.patient_id, set()).add(sample.fold)
    assert len(folds) == 1532
    assert all(len(where) == 1 for where in folds.values())
    assert not TEST_FOLDS & VALIDATION_FOLDS


def test_the_nih_subset_reads_as_its_readme_says(shared_data):
    samples = datasets.read(f"nih:{shared_data / 'nih_cxr14_subset'}")
    assert len(samples) == 1957
    assert sum(bool(sample.boxes) for sample in samples) == 206
    assert sum(bool(sample.finding_boxes) for sample in samples) == 688
    assert len({finding for sample in samples for finding in sample.finding_boxes}) == 8
    assert {sample.target for sample in samples} == {0, 1, None}
    assert samples.problems == ()
    assert {sample.shape for sample in samples} == {(512, 512)}
    assert all(0 <= v <= 1 for sample in samples for box in sample.boxes for v in box)


def test_kermany_reads_as_its_readme_says(shared_data):
    samples = datasets.read(f"kermany:{shared_data / 'kermany224'}")
    assert len(samples) == 5856
    assert {"bacteria", "virus"} <= {f.lower() for s in samples for f in s.findings}
    assert np.bincount([s.target for s in samples]).tolist() == [1583, 2780, 1493]
    # the official split has 170 groups on both sides
    assert counted(samples.problems) == {tables.Kind.PATIENT_IN_TWO_SPLITS: 170}
    splits = {}
    for sample in samples:
        splits.setdefault(sample.patient_id, set()).add(sample.split)
    assert all(len(where) == 1 for where in splits.values())
    assert len(samples.part("test")) > 624


def test_boxes_land_on_the_model_grid(nih_folder):
    sample = next(s for s in datasets.read(f"nih:{nih_folder}") if s.boxes)
    mask = masks.box_mask(sample, 96)
    assert mask[30:60, 20:50].all()
    assert mask.sum() == 900
    inputs = loading.load_inputs([sample], InputSpec(size=96))[0, 0].numpy()
    assert inputs[mask].mean() > inputs[~mask].mean() + 50


@pytest.mark.parametrize(
    ("spec", "message"),
    [("dicom:/tmp", "kermany"), ("nih:/nowhere", "no folder"), ("nih", "reader:folder"), ("nih:/tmp", "labels.csv")],
)
def test_a_wrong_dataset_is_refused_in_words(spec, message):
    with pytest.raises(SystemExit, match=message):
        datasets.read(spec)


def test_an_unlabelled_image_has_no_target(nih_folder):
    targets = [s.target for s in datasets.read(f"nih:{nih_folder}")]
    assert targets[-2:] == [None, None]
    assert np.sum([t == 1 for t in targets]) == 19


def test_sex_and_age_are_read_and_nonsense_is_counted(nih_folder, shared_data, tmp_path):
    samples = datasets.read(f"nih:{shared_data / 'nih_cxr14_subset'}")
    assert samples[0].sex == "M"
    assert (samples[0].age, samples[1].age) == (57, 58)
    assert {sample.sex for sample in samples} == {"F", "M"}
    assert {(s.sex, s.age) for s in datasets.read(f"nih:{nih_folder}")} == {("", None)}, "the columns may be absent"
    for index in range(5):
        shutil.copy(nih_folder / "images" / f"{index:08d}_000.jpg", tmp_path / f"{index}.jpg")
    rows = ["0,f,62.5", "1,O,", "2,,0", "3,X,414", "4,M,old"]
    lines = ["file,patient_id,target,sex,age", *(f"{row[0]}.jpg,p{row[0]},1,{row[2:]}" for row in rows)]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    read = datasets.read(f"folder:{tmp_path}")
    assert [(s.sex, s.age) for s in read] == [("F", 62.5), ("O", None), ("", 0), ("", None), ("M", None)]
    assert [problem.detail for problem in read.problems] == [
        "sex=X, known are F, M, O", "age=414, in years from 0 to 120", "age=old, in years from 0 to 120",
    ]  # fmt: skip


def test_a_cohort_keeps_what_is_known_of_each_image(nih_folder, shared_data):
    read = datasets.read(f"nih:{shared_data / 'nih_cxr14_subset'}")
    images, _ = cohort.load(replace(read, samples=read.samples[:6]), InputSpec(size=16))
    chosen = images.take(np.array([4, 1]))
    for position, index in enumerate((4, 1)):
        sample = read[index]
        assert (chosen.sexes[position], chosen.ages[position]) == (sample.sex, sample.age)
        assert (chosen.names[position], chosen.shapes[position]) == (sample.path.name, (512, 512))
        assert chosen.sources[position] == sample.target_source
    plain, _ = cohort.load(datasets.read(f"nih:{nih_folder}"), InputSpec(size=16))
    assert set(plain.sexes) == {""}
    assert np.isnan(plain.ages).all()
    bare = cohort.Cohort(
        images=plain.images[:2], targets=plain.targets[:2], truths=(None, None), boxes=plain.boxes[:2],
        views=("", ""), patients=("a", "b"), splits=("train", "test"), classes=("normal", "opacity"),
    )  # fmt: skip
    taken = bare.part("test")
    assert (taken.sexes, taken.names, taken.shapes) == (("",), ("",), ((16, 16),))
    assert np.isnan(taken.ages).all()
