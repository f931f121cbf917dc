"""Verdicts of radiologists: on which results they may be given, and what they mean for an export."""

import csv
import json
from datetime import timedelta

import numpy as np
import pytest
from exporting import NOW, ROOT, Node, film

from dicom_node.learn.export import NotJudged, judge
from dicom_node.learn.export.judged import opinions
from dicom_node.nouns import Note, Opinion
from dicom_node.storage.ledger.verdicts import ReaderVerdict

STUDY = f"{ROOT}.1"
IMAGE, OTHER = f"{STUDY}.1.1", f"{STUDY}.1.2"
AGREE, DISAGREE, WRONG_PLACE = Opinion
PLAIN = np.tile(np.linspace(0, 4095, 200), (240, 1)).astype(np.int64)  # the toy model calls nothing on it


def say(node, opinion, study=STUDY, image=None, reader="", note=None, minute=0):
    now = NOW + timedelta(minutes=minute)
    return judge(node.ledger, study, opinion, image=image, reader=reader, note=note, now=now)


def rows_of(node, out="out", **wishes):
    node.export(out, **wishes)
    with (node.folder / out / "labels.csv").open(newline="") as file:
        return [(row["target"], row["target_source"], row["verdict"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("opinion", "stored", "row"),
    [
        (AGREE, None, ("1", "verdict", "agree")),
        (DISAGREE, None, ("0", "verdict", "disagree")),
        (AGREE, PLAIN, ("0", "verdict", "agree")),
        (DISAGREE, PLAIN, ("1", "verdict", "disagree")),
        (WRONG_PLACE, None, ("", "", "wrong-place")),
    ],
)
def test_a_verdict_implies_a_target_from_the_decision_that_was_judged(tmp_path, opinion, stored, row):
    node = Node(tmp_path).receive(film(1, stored=stored)).answer(STUDY)
    kept = say(node, opinion, reader="AB", note=Note.SUBTLE)
    assert kept.decisions == {IMAGE: stored is None}
    assert kept.model.startswith("toy 0.0.1")
    assert node.ledger.verdicts() == [kept]
    assert rows_of(node, unlabelled=True) == [row]


def test_a_label_of_the_table_goes_before_a_verdict_and_a_contradiction_is_said(tmp_path):
    node = Node(tmp_path).receive(film(1)).answer(STUDY)
    say(node, AGREE)
    report = node.export(labels="accession_number,target\n00177,0\n")
    assert report.contradicted == [IMAGE]
    assert dict(report.sources) == {"csv": 1}
    with (tmp_path / "out" / "labels.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["target"], row["target_source"], row["verdict"]) == ("0", "csv", "agree")


def test_without_any_label_only_what_was_judged_is_exported(tmp_path):
    node = Node(tmp_path).receive(film(1), film(2)).answer(STUDY)
    say(node, AGREE)
    report = node.export()
    assert (report.images, report.unlabelled) == (1, [f"{ROOT}.2"])


def test_unknown_studies_images_and_results_are_refused(tmp_path):
    node = Node(tmp_path).receive(film(1))
    with pytest.raises(NotJudged, match="no study with this UID"):
        say(node, AGREE, study="1.2.3")
    with pytest.raises(NotJudged, match="nothing to judge"):
        say(node, AGREE)
    node.answer(STUDY)
    with pytest.raises(NotJudged, match=f"no decision on this image; decided were: {IMAGE}"):
        say(node, AGREE, image=OTHER)
    assert node.ledger.verdicts() == []


def test_images_that_were_decided_differently_must_be_named(tmp_path):
    node = Node(tmp_path).receive(film(1), film(2, study=STUDY, stored=PLAIN)).answer(STUDY)
    with pytest.raises(NotJudged, match=rf"{IMAGE} \(present\), {OTHER} \(absent\)"):
        say(node, DISAGREE)
    assert say(node, DISAGREE, image=OTHER).decisions == {OTHER: False}
    assert rows_of(node) == [("1", "verdict", "disagree")]


def test_images_of_two_revisions_each_have_their_own_result(tmp_path):
    node = Node(tmp_path).receive(film(1)).answer(STUDY)
    node.receive(film(2, study=STUDY)).answer(STUDY, revision=2)
    assert say(node, AGREE).decisions == {IMAGE: True, OTHER: True}


def test_a_later_result_of_another_model_changes_no_verdict(tmp_path):
    node = Node(tmp_path).receive(film(1)).answer(STUDY)
    say(node, AGREE)
    for path in node.spool.outbox.rglob("*.dcm"):
        path.unlink()
    assert rows_of(node) == [("1", "verdict", "agree")]
    with pytest.raises(NotJudged, match="nothing to judge"):
        say(node, AGREE)


def verdict(opinion, positive=1, reader="", image=IMAGE):
    return ReaderVerdict(
        study_instance_uid=STUDY,
        decisions={image: bool(positive)},
        model="toy",
        opinion=opinion,
        reader=reader,
        note=None,
        given_at=NOW,
    )


@pytest.mark.parametrize(
    ("given", "opinion", "target", "contradictory"),
    [
        ([verdict(AGREE), verdict(DISAGREE)], DISAGREE, 0, False),
        ([verdict(AGREE, reader="A"), verdict(DISAGREE, reader="B")], None, None, True),
        ([verdict(AGREE, reader="A"), verdict(DISAGREE, 0, reader="B")], None, 1, False),
        ([verdict(AGREE, reader="A"), verdict(WRONG_PLACE, reader="B")], None, 1, False),
        ([verdict(DISAGREE, reader="A"), verdict(AGREE, reader="B"), verdict(AGREE, reader="A")], AGREE, 1, False),
        ([verdict(AGREE), verdict(DISAGREE, image=OTHER)], AGREE, 1, False),
    ],
)
def test_the_last_verdict_of_each_reader_counts(given, opinion, target, contradictory):
    found = opinions(given)[IMAGE]
    assert (found.opinion, found.target, found.contradictory) == (opinion, target, contradictory)


def test_all_verdicts_are_kept_in_order_and_a_study_has_its_own(tmp_path):
    node = Node(tmp_path).receive(film(1), film(2)).answer(STUDY).answer(f"{ROOT}.2")
    given = [say(node, AGREE, reader="A"), say(node, DISAGREE, reader="A", minute=1)]
    other = say(node, WRONG_PLACE, study=f"{ROOT}.2", minute=2)
    assert node.ledger.verdicts() == [*given, other]
    assert node.ledger.verdicts(STUDY) == given


def test_the_command_line(tmp_path):
    node = Node(tmp_path).receive(film(1)).answer(STUDY)
    done = node.run("verdict", STUDY, "agree", "--by", "A.B-1", "--note", "subtle")
    assert "kept: agree, on 1 image(s) decided as present by toy 0.0.1" in done.stdout
    (kept,) = json.loads(node.run("verdict", "--list", "--json").stdout)
    assert (kept["opinion"], kept["reader"], kept["note"]) == ("agree", "A.B-1", "subtle")
    assert "agree" in node.run("verdict", "--list").stdout
    assert "no study with this UID" in node.run("verdict", "9.9", "agree", expect=1).stderr
    assert "a Study Instance UID" in node.run("verdict", expect=2).stderr
    assert "--by" in node.run("verdict", STUDY, "agree", "--by", "Miller saw Mrs Smith", expect=2).stderr
    assert "perhaps" in node.run("verdict", STUDY, "perhaps", expect=2).stderr
    assert len(node.ledger.verdicts()) == 1


def test_what_readers_say_of_themselves_stays_on_the_node(tmp_path):
    node = Node(tmp_path).receive(film(1)).answer(STUDY)
    say(node, AGREE, reader="Zeisig", note=Note.DEVICE)
    node.export()
    content = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file())
    assert b"Zeisig" not in content
    assert b"device" not in content
