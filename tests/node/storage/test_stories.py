"""The story of one study, on SQLite, and on PostgreSQL when it is there."""

from dataclasses import replace
from pathlib import Path

from working import STUDY, association, at, delivery, instance, study, task

from dicom_node.errors import Reason
from dicom_node.nouns import DeliveryState, Opinion, PassedBy, StudyState
from dicom_node.storage.ledger.observations import Observation
from dicom_node.storage.ledger.story import Fate, what_next
from dicom_node.storage.ledger.verdicts import ReaderVerdict

LATERAL = PassedBy(sop_instance_uid=f"{STUDY}.1.2", reason="it is a lateral view", code=Reason.VIEW)


def observation(number=1, *, of="t1", role="champion", probability=0.91):
    return Observation(
        task_id=of, study_instance_uid=STUDY, sop_instance_uid=f"{STUDY}.1.{number}", digest=f"d-{role}",
        model_name="chest", model_version="1.0", role=role, probability=probability, threshold=0.5,
        positive=probability > 0.5, near_threshold=False, distance=1.0, far=False, statistics={}, heatmap=b"",
        seconds=2.0, observed_at=at(40),
    )  # fmt: skip


def explained(ledger):
    """Three images and a presentation state came; a frontal one is explained, another has no result."""
    ledger.open_association(association())
    images = [instance(number, seconds=number) for number in (1, 2, 3, 4)]
    for one in images:
        ledger.add_instance(one)
    ledger.close_association("a1", at(10))
    revision = study(*images)
    chosen = task(revision, selected=(images[0].sop_instance_uid, images[2].sop_instance_uid), passed_by=(LATERAL,))
    ledger.mark_ready(revision, [chosen], at(20))
    ledger.lease("t1", "w", at(30), 60)
    owed = [delivery(number=1), delivery(number=2, destination="archive"), delivery(number=3, kind="segmentation")]
    ledger.complete("t1", "w", deliveries=owed, state=StudyState.EXPLAINED, reason=None, now=at(40))
    ledger.observe([observation(), observation(role="challenger", probability=0.2)])


def test_a_study_is_told_from_its_images_to_its_deliveries(ledger):
    explained(ledger)
    ledger.lease_deliveries("t1-1-pacs", "s", at(50), 60)
    ledger.delivery_sent("t1-1-pacs", at(52), 0, commitment=True)
    ledger.delivery_dead("t1-3-pacs", "s", "C-STORE status 0xA900", at(53))
    ledger.destination_unreachable("archive", at(54), at(90), "no association")
    ledger.add_quarantine(f"{STUDY}.1.9", STUDY, Path("/spool/quarantine/x.dcm"), "not a DICOM data set", at(5))
    said = ReaderVerdict(
        study_instance_uid=STUDY, decisions={f"{STUDY}.1.1": True}, model="chest 1.0", opinion=Opinion.AGREE,
        reader="ab", note=None, given_at=at(99),
    )  # fmt: skip
    ledger.add_verdict(said)
    story = ledger.story(STUDY)
    (revision,) = story.revisions
    assert (revision.revision, revision.state) == (1, StudyState.EXPLAINED)
    assert revision.timeline.seconds() == {
        "received": 3.0, "ready": 16.0, "leased": 10.0, "explained": 10.0, "delivered": None, "total": None,
    }  # fmt: skip
    assert [(one.fate, one.reason) for one in revision.images] == [
        (Fate.EXPLAINED, None),
        (Fate.PASSED_BY, "it is a lateral view"),
        (Fate.NOT_ANALYSED, "it could not be analysed: the report says why"),
        (Fate.NO_IMAGE, None),
    ]
    assert [(one.role, one.probability, one.positive) for one in revision.images[0].decisions] == [
        ("challenger", 0.2, False),
        ("champion", 0.91, True),
    ]
    assert revision.images[0].sender == "MODALITY@127.0.0.1"
    (made,) = revision.tasks
    assert (made.route, made.images, made.attempts, made.outcome) == ("chest", 2, 1, StudyState.EXPLAINED)
    assert [(one.destination, one.kind, one.state, one.commitment) for one in made.deliveries] == [
        ("archive", "secondary_capture", DeliveryState.PENDING, ""),
        ("pacs", "secondary_capture", DeliveryState.SENT, "to be asked"),
        ("pacs", "segmentation", DeliveryState.DEAD, ""),
    ]
    assert [one.next_attempt_at is None for one in made.deliveries] == [False, True, True]
    assert (story.verdicts, story.away) == ((said,), {"archive": "no association"})
    aside, away, dead = what_next(story, at(100))
    assert aside == f"{STUDY}.1.9 was set aside: not a DICOM data set"
    assert away.startswith("archive does not answer (no association)")
    assert dead.startswith("1 dead at pacs (C-STORE status 0xA900)")
    assert dead.endswith(f"`dicom-node rerun {STUDY} --failed`")


def test_commitment_is_told_in_words(ledger):
    explained(ledger)
    ledger.lease_deliveries("t1-1-pacs", "s", at(50), 60)
    ledger.delivery_sent("t1-1-pacs", at(51), 0, commitment=True)
    ledger.delivery_sent("t1-3-pacs", at(51), 0)

    def told():
        return [
            (one.commitment, one.commitment_asked_at) for one in ledger.story(STUDY).revisions[0].tasks[0].deliveries
        ]

    asked = ledger.open_commitment("pacs", "PACS", at(52), 60, patience=60)
    assert told() == [("", None), ("asked", at(52)), ("", None)]
    ledger.close_commitment(asked.transaction_uid, "it does not take it", lambda _: at(99), at(53))
    assert told()[1] == ("not committed", None)
    assert "not committed: it does not take it" in what_next(ledger.story(STUDY), at(60))[-1]


def test_what_comes_late_is_the_next_revision_and_the_first_in_the_story(ledger):
    explained(ledger)
    ledger.add_instance(instance(5, seconds=60))
    coming, first = ledger.story(STUDY).revisions
    assert (coming.revision, coming.state, first.revision) == (2, StudyState.RECEIVING, 1)
    assert [one.fate for one in coming.images] == [Fate.RECEIVED]
    assert (coming.timeline.first_received, coming.timeline.ready_at) == (at(60), None)
    assert what_next(ledger.story(STUDY), at(61)) == []


def test_what_waits_and_what_failed_says_what_to_do(ledger):
    ledger.add_instance(instance(1))
    revision = study(instance(1))
    ledger.mark_ready(revision, [task(revision)], at(20))
    assert what_next(ledger.story(STUDY), at(60)) == []
    (line,) = what_next(ledger.story(STUDY), at(600))
    assert "no worker takes its task" in line
    ledger.lease("t1", "w", at(601), 60)
    assert ledger.story(STUDY).revisions[0].images[0].fate is Fate.WAITING
    ledger.complete("t1", "w", deliveries=[], state=StudyState.FAILED, reason="the analysis failed (X)", now=at(610))
    story = ledger.story(STUDY)
    assert (story.revisions[0].images[0].fate, story.revisions[0].images[0].reason) == (
        Fate.NOT_ANALYSED, "the analysis failed (X)",
    )  # fmt: skip
    (line,) = what_next(story, at(620))
    assert "the analysis failed (X)" in line
    assert line.endswith(f"`dicom-node rerun {STUDY} --failed`")


def test_without_what_the_model_said_the_outcome_of_the_task_counts(ledger):
    ledger.add_instance(instance(1))
    revision = study(instance(1))
    ledger.mark_ready(revision, [replace(task(revision), destinations=())], at(20))
    ledger.lease("t1", "w", at(30), 60)
    ledger.complete("t1", "w", deliveries=[], state=StudyState.EXPLAINED, reason=None, now=at(40))
    story = ledger.story(STUDY)
    assert story.revisions[0].images[0].fate is Fate.EXPLAINED
    assert what_next(story, at(50))[0].startswith("nobody gets its results")


def test_a_study_is_found_by_a_part_of_its_uid(ledger):
    for uid in ("1.2.3.4", "1.2.3.45", "1.2.9.4"):
        ledger.add_instance(instance(1, study=uid))
    ledger.add_quarantine("1.5.1", "1.5", Path("/x"), "why", at(0))
    assert ledger.find_studies("1.2.3.4") == ["1.2.3.4"], "a whole UID is no part of another"
    assert ledger.find_studies("1.2.3") == ["1.2.3.4", "1.2.3.45"]
    assert ledger.find_studies("9.4") == ["1.2.9.4"]
    assert ledger.find_studies(".4") == ["1.2.3.4", "1.2.9.4"]
    assert ledger.find_studies("1.", limit=2) == ["1.2.3.4", "1.2.3.45"]
    assert ledger.find_studies("1.5") == ["1.5"]
    assert [ledger.find_studies(other) for other in ("%", "_", "7")] == [[], [], []]
    assert (ledger.story("1.2"), ledger.story("1.5").revisions) == (None, ())
