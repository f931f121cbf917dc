"""Observations: what a model said of each image, once, without the patient, and never at a study's cost."""

import dataclasses
import re
import sqlite3

import numpy as np
import pytest
from pydicom import Dataset
from shadowing import STUDIES, Node, load, observed
from structlog.testing import capture_logs
from toy_explainer import ToyExplainer
from working import at, instance, study, task

from dicom_node.dicom import reading
from dicom_node.errors import OutOfResources
from dicom_node.explain import pipeline, record
from dicom_node.explain.record import coarse
from dicom_node.models.agreement import agreement
from dicom_node.nouns import StudyState, TaskState
from dicom_node.storage.ledger.observations import pack, unpack
from explain_core.radiograph import Radiograph


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    yield made
    made.ledger.close()


def test_every_explained_image_is_observed_once_however_often_its_task_is_done(node):
    node.receive(1, 2)
    node.explain(1, 2)
    first = node.ledger.observed(node.champion)
    assert [one.sop_instance_uid for one in first] == [f"{STUDIES}.1.1.1", f"{STUDIES}.2.1.1"]
    said = pipeline.analyse(
        node.ledger.task("t1"),
        node.ledger.study(f"{STUDIES}.1", 1),
        lambda one: reading.read(one.path),
        load(node.folder / "configured"),
        methods=["similar_adversarial"],
    )
    explanation = said.explained[0].explanations[0]
    one = first[0]
    assert (one.probability, one.positive) == (explanation.prediction.probability, explanation.prediction.positive)
    assert (one.distance, one.far) == (explanation.out_of_distribution.score, explanation.out_of_distribution.far)
    assert dict(one.statistics) == dict(explanation.statistics)
    assert set(one.statistics) == {"mean", "contrast", "sharpness", "aspect"}
    assert (one.role, one.model_version, one.calling_ae_title) == ("champion", "1.0.0", "MODALITY")
    assert np.allclose(unpack(one.heatmap), coarse(explanation.attribution.values), atol=1e-3)
    node.ledger.rerun_study(f"{STUDIES}.1", at(40))
    node.now = at(50)
    node.explain(1)
    assert node.ledger.observed(node.champion) == first


def test_an_image_of_several_tasks_counts_once_as_it_was_seen_last(node):
    made = [pair(number, number / 10) for number in (1, 2, 3)]
    again = dataclasses.replace(made[0], task_id="again", probability=0.9, observed_at=at(500))
    other = dataclasses.replace(made[1], digest="f" * 64)
    assert node.ledger.observe([*made, again, other]) == 5
    assert node.ledger.observe([*made, again, other]) == 0
    digest = made[0].digest
    assert [one.probability for one in node.ledger.observed(digest)] == [0.2, 0.3, 0.9]
    assert [one.probability for one in node.ledger.observed(digest, last=2)] == [0.3, 0.9]
    assert [one.probability for one in node.ledger.observed(digest, since=at(63))] == [0.3, 0.9]
    assert [one.probability for one in node.ledger.observed(digest, before=at(63))] == [0.1, 0.2]


def test_nothing_of_the_patient_is_in_the_tables(node):
    node.receive(1, PatientName="Canary^Bird", PatientID="CANARY7", AccessionNumber="CANARY8")
    node.explain(1)
    with sqlite3.connect(node.folder / "ledger.sqlite") as database:
        rows = [repr(row) for row in database.execute("SELECT * FROM observations")]
    assert len(rows) == 1
    assert not re.search("canary|bird|1950", " ".join(rows), re.IGNORECASE)


def test_a_ledger_that_fails_costs_the_row_and_not_the_study(node, monkeypatch):
    node.receive(1)

    def refuse(*_):
        raise OutOfResources("the ledger does not answer")

    monkeypatch.setattr(node.ledger, "observe", refuse)
    with capture_logs() as logged:
        node.explain(1)
    assert node.ledger.task("t1").state is TaskState.DONE
    assert node.ledger.studies()[0].state is StudyState.EXPLAINED
    assert node.ledger.observed(node.champion) == []
    (line,) = [one for one in logged if one["event"] == "not observed"]
    assert line["error"] == "OutOfResources"


def test_an_analysis_without_any_decision_makes_no_row(node):
    of = task(study(instance(1)))
    refused = pipeline.Analysis(task=of, header=Dataset(), model=None, state=StudyState.FAILED, reason="none")
    assert record.record(node.ledger, of, refused, role="champion", now=at(40)) == 0
    assert node.ledger.observed(node.champion) == []


def test_the_seconds_of_a_task_are_shared_by_its_images():
    toy = ToyExplainer()
    radiograph = Radiograph(pixels=np.eye(64, dtype=np.float32), spacing=None, orientation=None, source_id="1")
    rows = observed([toy.classify(radiograph)] * 4, seconds=2)
    assert [one.seconds for one in rows] == [0.5] * 4
    assert [one.heatmap for one in rows] == [None] * 4


@pytest.mark.parametrize("shape", [(2500, 2048), (100, 33), (20, 40), (1, 1)])
def test_a_coarse_map_holds_the_means_of_its_cells(shape):
    values = np.random.default_rng(0).random(shape, np.float32)
    cells = coarse(values)
    assert cells.shape == tuple(min(32, side) for side in shape)
    rows, columns = (np.linspace(0, side, cells.shape[axis] + 1).astype(int) for axis, side in enumerate(shape))
    last = values[rows[-2] :, columns[0] : columns[1]]
    assert cells[-1, 0] == pytest.approx(last.mean(), rel=1e-5)


def test_a_coarse_map_is_packed_small_and_comes_back_to_half_a_level():
    cells = coarse(np.random.default_rng(0).random((512, 512), np.float32))
    assert len(pack(cells)) < 1100
    assert np.abs(unpack(pack(cells)) - cells).max() <= cells.max() / 510 + 1e-6
    empty = np.zeros((32, 32), np.float32)
    assert np.array_equal(unpack(pack(empty)), empty)
    assert len(pack(empty)) < 40


def pair(number: int, probability: float, threshold: float = 0.5, heatmap=None):
    radiograph = Radiograph(pixels=np.eye(64, dtype=np.float32), spacing=None, orientation=None, source_id="1")
    (made,) = observed([ToyExplainer().classify(radiograph)], number)
    packed = None if heatmap is None else pack(np.asarray(heatmap, np.float32))
    return dataclasses.replace(
        made, probability=probability, threshold=threshold, positive=probability >= threshold, heatmap=packed
    )


def test_agreement_by_hand():
    """20 of both positive, 5 and 10 split, 15 of both negative: the example of Cohen's kappa = 0.4."""
    decided = [(0.9, 0.8)] * 20 + [(0.9, 0.1)] * 5 + [(0.1, 0.9)] * 10 + [(0.1, 0.2)] * 15
    champion = [pair(number, one) for number, (one, _) in enumerate(decided)]
    challenger = [pair(number, two) for number, (_, two) in enumerate(decided)]
    found = agreement([*champion, pair(99, 0.5)], [*challenger, pair(98, 0.5)])
    assert (found.images, found.agree, found.share, found.waiting) == (50, 35, 0.7, 1)
    assert found.kappa == pytest.approx(0.4)
    assert (found.low, found.high) == (pytest.approx(0.5625, abs=1e-3), pytest.approx(0.8090, abs=1e-3))
    assert found.mean_difference == pytest.approx((35 * 0.1 + 15 * 0.8) / 50)
    assert found.signed_difference == pytest.approx((-20 * 0.1 - 5 * 0.8 + 10 * 0.8 + 15 * 0.1) / 50)
    assert found.largest_difference == pytest.approx(0.8)
    assert len(found.disagreements) == 15
    assert {(one.champion, one.challenger) for one in found.disagreements} == {(0.9, 0.1), (0.1, 0.9)}


def test_agreement_of_nothing_and_of_models_that_always_say_the_same():
    nothing = agreement([], [])
    assert (nothing.images, nothing.share, nothing.kappa, nothing.overlap) == (0, None, None, None)
    always = agreement([pair(1, 0.9), pair(2, 0.9)], [pair(1, 0.8), pair(2, 0.8)])
    assert (always.share, always.kappa) == (1.0, None)


def test_heatmaps_are_compared_where_both_explain_the_same_decision():
    ramp = np.arange(100).reshape(10, 10)
    champion = [pair(1, 0.9, heatmap=ramp), pair(2, 0.9, heatmap=ramp), pair(3, 0.9, heatmap=ramp)]
    same = agreement(champion[:1], [pair(1, 0.9, heatmap=3 * ramp)])
    assert (same.heatmaps, same.overlap, same.correlation) == (1, (1, 1, 1), pytest.approx((1, 1, 1)))
    turned = agreement(champion[:1], [pair(1, 0.9, heatmap=ramp[::-1, ::-1])])
    assert (turned.overlap, turned.correlation) == ((0, 0, 0), pytest.approx((-1, -1, -1), abs=1e-3))
    others = [pair(1, 0.1, heatmap=ramp), pair(2, 0.9, heatmap=0 * ramp), pair(3, 0.9)]
    assert agreement(champion, others).heatmaps == 0
