"""The worker: lease, explain, outbox, one transaction; with real data sets, a real ledger and a toy model."""

import os
import threading
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from pydicom import dcmread
from radiographs import phantom
from structlog.testing import capture_logs
from tasks import RULES, SR_STORAGE, Doing, Node, chest
from toy_explainer import TOY_METHODS, ToyExplainer
from working import SC_STORAGE, STUDY, Peer, at, due, wait_for

from dicom_node.deliver.sender import Sender
from dicom_node.errors import BrokerUnreachable, ConfigError, OutOfResources, StudyUnsuitable
from dicom_node.explain import building, leases
from dicom_node.nouns import DeliveryState, StudyState, TaskState
from dicom_node.settings.dashboard import WebSettings
from dicom_node.settings.rule_tables import result_names
from dicom_node.settings.sections import Settings
from explain_core import plugins, progress
from explain_core.errors import AttributionError

DEFAULT = ("presentation_state", "secondary_capture", "structured_report")

USUAL_OBJECTS = sorted(set(result_names()) - {"synthetic_images", "morphs"})
"""All that a destination may name; the rest comes with `synthetic_images`."""


@pytest.fixture
def node(tmp_path):
    made = []

    def make(**options) -> Node:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Node(folder, **options))
        return made[-1]

    yield make
    for one in made:
        one.ledger.close()


# ---- what went well


def test_an_explained_study_owes_every_result_to_every_destination_of_its_route(node):
    here = node()
    assert here.worker().run("t1")
    assert here.state == (StudyState.EXPLAINED, None)
    assert here.ledger.task("t1").state is TaskState.DONE
    rows = here.ledger.deliveries()
    owed = sorted((one.kind, one.destination) for one in rows if one.state is DeliveryState.PENDING)
    assert owed == sorted((kind, name) for kind in DEFAULT for name in ("pacs", "archive"))
    assert ("overlay", "pacs") in [(one.kind, one.destination) for one in rows if one.state is DeliveryState.STANDBY]
    assert len({one.sop_instance_uid for one in rows}) * 2 == len(rows)
    for row in rows:
        written = dcmread(row.path)
        assert (written.SOPInstanceUID, written.SOPClassUID) == (row.sop_instance_uid, row.sop_class_uid)
        assert written.StudyInstanceUID == STUDY


def test_what_the_dashboard_shows_is_written_unless_the_site_wants_none(node):
    here = node()
    here.worker().run("t1")
    assert [one.name for one in here.spool.views("t1")] == [f"{STUDY}.1.1-similar_adversarial.view"]
    none = node()
    none.settings = none.settings.model_copy(update={"web": WebSettings(pictures=False)})
    none.worker().run("t1")
    assert none.spool.views("t1") == []
    assert len(none.ledger.deliveries()) == len(here.ledger.deliveries())


def test_without_room_for_what_the_dashboard_shows_the_results_go_out(node, monkeypatch):
    here = node()

    def full(*_):
        raise OutOfResources("Disk full")

    monkeypatch.setattr(here.spool, "write_view", full)
    assert here.worker().run("t1")
    assert here.state == (StudyState.EXPLAINED, None)


def test_a_route_chooses_destinations_and_results(node):
    here = node()
    here.receive(2)
    here.add_task("t2", 2, route="quick")
    here.worker().run("t2")
    (row,) = [one for one in here.ledger.deliveries() if one.state is DeliveryState.PENDING]
    assert (row.destination, row.sop_class_uid, row.kind) == ("pacs", SR_STORAGE, "structured_report")


@pytest.mark.parametrize("kept", [[], [RULES[0]]])
def test_a_rule_that_is_renamed_or_removed_meanwhile_changes_nothing_about_who_is_answered(node, kept):
    here = node()
    here.receive(2)
    here.add_task("t2", 2, route="quick")
    here.settings = here.settings.model_copy(update={"rules": Settings(rules=kept).rules})
    here.worker().run("t2")
    (row,) = [one for one in here.ledger.deliveries() if one.state is DeliveryState.PENDING]
    assert (row.destination, row.kind) == ("pacs", "structured_report")


def test_the_same_message_again_does_nothing(node):
    here = node()
    one = here.worker()
    assert one.run("t1")
    before = (here.files, here.owed)
    assert not one.run("t1")
    assert not here.worker().run("t1")
    assert not one.run("unknown")
    assert before == (here.files, here.owed)


def test_the_model_is_asked_for_once_a_task_and_only_when_it_is_needed(node):
    here = node()
    asked = []
    one = here.worker(model=lambda: asked.append(1) or ToyExplainer())
    here.receive(2)
    here.add_task("t2", 2, route="", selected=(), reason="it is a lateral view")
    one.run("t2")
    assert asked == []
    here.receive(3)
    here.add_task("t3", 3)
    one.run("t1")
    one.run("t3")
    assert asked == [1, 1]


# ---- profiles


class Recording(ToyExplainer):
    """The toy model, which remembers which images it explained and which it only classified."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "calls", [])

    def classify(self, radiograph):
        self.calls.append("classify")
        return super().classify(radiograph)

    def explain(self, radiograph, methods, assessment=None):
        self.calls.append("explain")
        return super().explain(radiograph, methods, assessment)


def negative() -> bytes:
    """A film that varies slowly, in which the toy finds nothing."""
    return chest(stored=np.rint(np.linspace(60, 200, 240))[:, None].repeat(200, axis=1))


def test_two_destinations_get_what_each_wants_and_share_what_both_want(node):
    here = node(
        pacs={"objects": ["secondary_capture", "structured_report"], "long_edge": 600, "synthetic_images": True},
        archive={"objects": ["overlay", "structured_report"]},
    )
    model = Recording()
    assert here.worker(model).run("t1")
    assert model.calls == ["classify", "explain"], "decided once, explained once"
    pacs, archive = here.owed_to("pacs"), here.owed_to("archive")
    assert set(pacs) == {"secondary_capture", "structured_report", "synthetic_images"}
    assert set(archive) == {"overlay", "structured_report"}
    assert set(here.owed_to("archive", DeliveryState.STANDBY)) >= {"secondary_capture"}
    assert pacs["structured_report"] == archive["structured_report"]
    assert max(dcmread(pacs["secondary_capture"]).pixel_array.shape) < 1600


def by_method(rows, destination):
    """What waits for a destination: (kind, method that its series is named after) and the file."""
    waiting = [row for row in rows if (row.destination, row.state) == (destination, DeliveryState.PENDING)]
    found = {}
    for row in waiting:
        named = str(dcmread(row.path).SeriesDescription)
        method = next((one for one in TOY_METHODS if one.replace("_", " ") in named), None)
        found[row.kind, method] = row.path
    assert len(found) == len(waiting)
    return found


def test_each_destination_gets_the_objects_of_its_own_methods_of_one_analysis(node):
    here = node(pacs={"methods": [TOY_METHODS[1]]}, archive={"methods": [*TOY_METHODS]})
    asked = []

    class Asked(ToyExplainer):
        def explain(self, radiograph, methods, assessment=None):
            asked.append(tuple(methods))
            return super().explain(radiograph, methods, assessment)

    assert here.worker(Asked()).run("t1")
    assert asked == [TOY_METHODS], "both at once, each once"
    rows = here.ledger.deliveries()
    one, both = by_method(rows, "pacs"), by_method(rows, "archive")
    pictures = {(kind, name) for kind in ("secondary_capture", "presentation_state") for name in TOY_METHODS}
    assert set(both) == {*pictures, ("structured_report", None)}
    assert set(one) == {(kind, name) for kind, name in both if name != TOY_METHODS[0]}
    shared = set(one) - {("structured_report", None)}
    assert all(one[what] == both[what] for what in shared), "one file for both"
    assert one["structured_report", None] != both["structured_report", None]
    made = {what: dcmread(path) for what, path in both.items()}
    assert len({ds.SOPInstanceUID for ds in made.values()}) == len({ds.SeriesInstanceUID for ds in made.values()}) == 5
    assert sorted(ds.SeriesNumber for ds in made.values()) == [9901, 9903, 9904, 9911, 9914]


def test_a_node_that_wants_one_method_asks_for_no_other(node):
    here = node(results={"methods": ["toy_surroundings"]})
    assert here.worker().run("t1")
    (kinds, methods) = zip(*by_method(here.ledger.deliveries(), "pacs"), strict=True)
    assert set(kinds) == set(DEFAULT)
    assert set(methods) == {"toy_surroundings", None}


def test_a_map_that_cannot_be_used_is_reported_with_its_method(node):
    class Broken(ToyExplainer):
        def explain(self, _radiograph, methods, _assessment=None):
            raise AttributionError(f"the map of the method {methods[0]} has values that are not finite or below 0")

    here = node()
    assert here.worker(Broken()).run("t1")
    assert here.state[0] is StudyState.FAILED
    assert "the map of the method similar_adversarial has values that are not finite" in here.report_text


def test_a_size_of_its_own_is_another_object(node):
    here = node(
        image=chest(stored=np.rint(phantom(1200, 1000) * 255)), pacs={"long_edge": 600}, archive={"long_edge": 900}
    )
    here.worker().run("t1")
    sizes = [dcmread(here.owed_to(name)["secondary_capture"]).Rows for name in ("pacs", "archive")]
    assert sizes[0] < sizes[1]


def test_a_route_restricts_what_a_destination_wants(node):
    here = node(pacs={"objects": ["secondary_capture", "structured_report"]})
    here.receive(2)
    here.add_task("t2", 2, route="quick")
    here.worker().run("t2")
    assert set(here.owed_to("pacs")) == {"structured_report"}


def test_a_negative_image_is_explained_only_where_that_is_wanted(node):
    here = node(image=negative(), pacs={"explain": "positives"}, archive={"explain": "always"})
    model = Recording()
    assert here.worker(model).run("t1")
    assert here.state == (StudyState.EXPLAINED, None)
    assert set(here.owed_to("pacs")) == {"structured_report"}
    assert set(here.owed_to("archive")) == set(DEFAULT)
    assert here.owed_to("pacs")["structured_report"] != here.owed_to("archive")["structured_report"]


def test_positives_only_costs_no_explanation_of_a_negative_image(node):
    here = node(image=negative(), results={"explain": "positives"})
    model = Recording()
    assert here.worker(model).run("t1")
    assert "explain" not in model.calls
    assert here.state == (StudyState.EXPLAINED, None)
    assert set(here.owed_to("pacs")) == {"structured_report"}
    positive = node(results={"explain": "positives"})
    assert positive.worker(model).run("t1")
    assert "explain" in model.calls
    assert set(positive.owed_to("pacs")) == set(DEFAULT)


PROFILES = [
    {"objects": ["structured_report"]},
    {"objects": ["structured_report", "secondary_capture", "segmentation"]},
    {"long_edge": 600},
    {"compression": "rle"},
    {"explain": "positives"},
    {"synthetic_images": True},
    {"methods": ["similar_adversarial", "toy_surroundings"]},
    {
        "methods": ["toy_surroundings", "similar_adversarial"],
        "objects": USUAL_OBJECTS,
    },
    {"methods": ["toy_surroundings"], "synthetic_images": True},
    {"objects": USUAL_OBJECTS, "synthetic_images": True, "long_edge": 600},
    {
        "objects": USUAL_OBJECTS,
        "synthetic_images": True,
        "compression": "jpeg",
    },
]


@pytest.mark.slow
def test_one_uid_is_one_content_whatever_the_destination_wants(node):
    content: dict[str, tuple[str, bytes]] = {}
    shared = set()
    for profile in PROFILES:
        here = node(image=chest(stored=np.rint(phantom(720, 600) * 255)), pacs=profile, archive=profile)
        here.worker().run("t1")
        assert here.state[0] is StudyState.EXPLAINED
        for row in here.ledger.deliveries():
            if row.destination == "pacs":
                made = (row.kind, row.path.read_bytes())
                if row.sop_instance_uid in content:
                    shared.add(row.kind)
                assert content.setdefault(row.sop_instance_uid, made) == made, row.kind
    assert {"structured_report", "overlay", "secondary_capture"} <= shared


def test_a_report_names_what_its_own_destination_was_given_before(node):
    here = node(image=negative(), pacs={"explain": "positives"})
    here.worker().run("t1")
    first = {name: here.owed_to(name)["structured_report"] for name in ("pacs", "archive")}
    assert first["pacs"] != first["archive"]
    for row in here.ledger.deliveries(state=DeliveryState.PENDING):
        here.ledger.delivery_sent(row.delivery_id, at(40), 0)
    results = here.settings.results.model_copy(update={"manufacturer": "Another"})
    here.settings = here.settings.model_copy(update={"results": results})
    here.ledger.rerun_study(STUDY, at(50))
    here.worker().run("t1")
    for name, path in first.items():
        rows = [one for one in here.ledger.deliveries() if (one.destination, one.sop_class_uid) == (name, SR_STORAGE)]
        (new,) = [dcmread(one.path) for one in rows if one.path != path]
        (series,) = new.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
        (named,) = series.ReferencedSOPSequence
        assert named.ReferencedSOPInstanceUID == dcmread(path).SOPInstanceUID


def _one(here: Node, destination: str) -> str:
    return next(one.delivery_id for one in here.ledger.deliveries() if one.destination == destination)


# ---- profiles meet peers


@pytest.fixture
def peers():
    started = []

    def make(*classes: str) -> Peer:
        started.append(Peer(classes=classes or None).start())
        return started[-1]

    yield make
    for one in started:
        one.stop()


def deliver(here: Node) -> None:
    """What the dispatcher's messages make a sender do, until nothing is due."""
    sender = Sender(settings=here.settings, ledger=here.ledger, clock=lambda: here.now)
    while waiting := due(here.ledger, here.now):
        sender.deliver(waiting[0].delivery_id)


def test_a_peer_that_takes_pictures_only_gets_pictures_and_the_other_what_it_wants(node, peers):
    pictures, everything = peers(SC_STORAGE), peers()
    wanted = ["segmentation", "structured_report"]
    here = node(
        pacs={"port": pictures.port, "ae_title": "PACS", "objects": wanted},
        archive={"port": everything.port, "ae_title": "PACS", "objects": wanted},
    )
    assert here.worker().run("t1")
    deliver(here)
    assert here.state == (StudyState.EXPLAINED, None)
    assert set(here.owed_to("archive", DeliveryState.SENT)) == set(wanted)
    assert set(here.owed_to("pacs", DeliveryState.SENT)) == {"overlay", "report_page"}
    assert set(here.owed_to("pacs", DeliveryState.DOWNGRADED)) == set(wanted)
    sent = {row.sop_instance_uid for row in here.ledger.deliveries(state=DeliveryState.SENT)}
    assert {*pictures.uids, *everything.uids} == sent
    assert len(pictures.uids) + len(everything.uids) == len(sent)
    assert [(one.kind, one.stand_in, one.count) for one in here.ledger.downgrades()] == [
        ("segmentation", "overlay", 1),
        ("structured_report", "report_page", 1),
    ]
    assert here.ledger.timeline(STUDY).delivered_at == here.now


def test_a_peer_that_takes_nothing_leaves_dead_letters_and_an_explained_study(node, peers):
    nothing, everything = peers("1.2.840.10008.5.1.4.1.1.2"), peers()
    here = node(pacs={"port": nothing.port, "ae_title": "PACS"}, archive={"port": everything.port, "ae_title": "PACS"})
    assert here.worker().run("t1")
    deliver(here)
    assert here.state == (StudyState.EXPLAINED, None)
    assert here.ledger.task("t1").state is TaskState.DONE
    assert {one.state for one in here.ledger.deliveries() if one.destination == "pacs"} == {DeliveryState.DEAD}
    assert set(here.owed_to("archive", DeliveryState.SENT)) == set(DEFAULT)
    assert nothing.uids == []


# ---- doing it twice


class Killed(BaseException):
    """What a kill looks like to Python code that runs on."""


def test_files_are_durable_before_any_row_and_a_second_run_makes_the_same_set(node, monkeypatch):
    here = node()
    seen = []

    def killed(*_, deliveries, **__):
        seen.append([one.path.exists() for one in deliveries])
        raise Killed

    monkeypatch.setattr(here.ledger, "complete", killed)
    with pytest.raises(Killed):
        here.worker().run("t1")
    assert [{True}] == [set(exist) for exist in seen]
    assert here.owed == []
    first = here.files
    monkeypatch.undo()
    here.now = at(30 + here.settings.broker.lease_seconds)
    assert here.ledger.reclaim("t1", here.now)
    assert here.worker().run("t1")
    assert here.files == first
    assert len(here.owed) == len(seen[0]) == 2 * len(first)


def test_a_worker_that_lost_its_lease_writes_nothing(node):
    here = node()

    def lose() -> None:
        here.now = at(30 + here.settings.broker.lease_seconds)
        assert here.ledger.reclaim("t1", here.now)
        assert here.ledger.lease("t1", "another", here.now, 60)

    assert not here.worker(Doing(lose)).run("t1")
    assert (here.files, here.owed) == ({}, [])
    assert here.ledger.task("t1").state is TaskState.LEASED


def test_a_worker_overtaken_while_writing_records_nothing(node, monkeypatch):
    here = node()
    write = here.spool.write_outbox

    def overtaken(*arguments):
        here.now = at(30 + 2 * here.settings.broker.lease_seconds)
        if here.ledger.reclaim("t1", here.now):
            here.ledger.lease("t1", "another", here.now, 60)
        return write(*arguments)

    monkeypatch.setattr(here.spool, "write_outbox", overtaken)
    assert not here.worker().run("t1")
    assert here.owed == []
    assert here.state[0] is StudyState.EXPLAINING


def test_a_rerun_sends_the_same_objects_again_and_makes_no_others(node):
    here = node()
    here.worker().run("t1")
    before = (here.files, here.owed)
    here.ledger.rerun_study(STUDY, at(60))
    assert here.worker().run("t1")
    assert before == (here.files, here.owed)


def test_a_late_image_leaves_the_results_of_the_first_revision_alone(node):
    here = node()
    here.worker().run("t1")
    before = here.files
    here.receive(2)
    here.add_task("t2", 2)
    here.worker().run("t2")
    assert before.items() <= here.files.items()
    assert len(here.files) == 2 * len(before)


# ---- what went wrong: never silence


def test_an_unsuitable_image_is_reported(node):
    here = node(image=chest(BodyPartExamined="HAND"))
    assert here.worker().run("t1")
    state, reason = here.state
    assert state is StudyState.FAILED
    assert "HAND" in reason
    assert reason in here.report_text
    assert {one.destination for one in here.ledger.deliveries()} == {"pacs", "archive"}


def test_a_truncated_file_is_reported(node):
    here = node(image=chest()[:-20_000])
    assert here.worker().run("t1")
    assert here.state[0] is StudyState.FAILED
    assert here.report.StudyInstanceUID == STUDY


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ZeroDivisionError("Canary^Bird"), "the analysis failed (ZeroDivisionError)"),
        (MemoryError("Canary^Bird"), "the analysis failed (MemoryError)"),
        (StudyUnsuitable("it is a drawing"), "it is a drawing"),
    ],
)
def test_any_failure_is_terminal_reported_and_quotes_nothing(node, error, reason):
    here = node()

    def fail() -> None:
        raise error

    with capture_logs() as logged:
        assert here.worker(Doing(fail)).run("t1")
    assert here.state == (StudyState.FAILED, reason)
    assert reason in here.report_text
    assert here.ledger.task("t1").state is TaskState.FAILED
    assert here.ledger.task("t1").attempts == 1
    assert not here.worker().run("t1")
    assert "canary" not in repr(logged).lower()


def test_a_model_that_cannot_be_loaded_is_reported_and_tried_again_with_the_next_task(node):
    here = node()
    turns = iter([ConfigError("model.bundle: generators.safetensors does not match"), None])

    def load():
        if (error := next(turns)) is not None:
            raise error
        return ToyExplainer()

    one = here.worker(model=load)
    assert one.run("t1")
    assert here.state == (StudyState.FAILED, "the analysis failed (ConfigError)")
    assert here.report
    assert here.ledger.replay_failed(None, at(60)).tasks == 1
    assert one.run("t1")
    assert here.state == (StudyState.EXPLAINED, None)


@pytest.mark.parametrize("away", [False, True])
def test_senders_are_woken_when_results_are_owed_and_the_dispatcher_sees_to_it_all_the_same(node, away):
    here, woken = node(), []

    def wake(delivery_id):
        (found,) = (one for one in here.ledger.deliveries() if one.delivery_id == delivery_id)
        woken.append((found.destination, found.state))
        if away:
            raise BrokerUnreachable("the broker does not answer")

    assert here.worker(wake=wake).run("t1")
    both = {(name, DeliveryState.PENDING) for name in ("archive", "pacs")}
    assert (set(woken) <= both, len(woken)) == (True, 1 if away else 2)  # the others would wait as long for nothing
    assert here.state == (StudyState.EXPLAINED, None)
    assert len(here.ledger.deliveries_to_submit(here.now, timedelta(seconds=30))) == 2


def test_results_that_cannot_be_written_are_reported(node, monkeypatch):
    here = node()
    write = here.spool.write_outbox

    def picky(name, datasets):
        if "PR" in {one.Modality for one in datasets}:
            raise ValueError("Canary^Bird")
        return write(name, datasets)

    monkeypatch.setattr(here.spool, "write_outbox", picky)
    with capture_logs() as logged:
        assert here.worker().run("t1")
    assert here.state == (StudyState.FAILED, "the results could not be written (ValueError)")
    assert "could not be written" in here.report_text
    assert "canary" not in repr(logged).lower()


def test_when_not_even_a_report_can_be_made_the_study_has_visibly_failed(node, monkeypatch):
    here = node()

    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(building, "build", broken)
    assert here.worker().run("t1")
    assert here.state == (
        StudyState.FAILED,
        "the analysis failed (ZeroDivisionError); no report could be made (ZeroDivisionError)",
    )
    assert here.ledger.task("t1").state is TaskState.FAILED


def test_a_study_that_no_rule_takes_is_answered_everywhere(node):
    here = node()
    here.receive(2)
    here.add_task("t2", 2, route="", selected=(), reason="it is a lateral view")
    assert here.worker().run("t2")
    newest = here.ledger.studies()
    assert (StudyState.IGNORED, "it is a lateral view") in [(one.state, one.reason) for one in newest]
    assert "it is a lateral view" in here.report_text
    assert {one.destination for one in here.ledger.deliveries()} == {"pacs", "archive"}


def test_a_task_given_up_is_reported_without_the_model_and_can_be_replayed(node):
    here = node()
    here.ledger.lease("t1", "dead", at(30), 60)
    assert here.ledger.reclaim("t1", at(90), give_up="the analysis ended 3 times without a result")

    def load():
        raise AssertionError("the model must not be loaded for a report")

    here.now = at(100)
    assert here.worker(model=load).run("t1")
    assert here.state == (StudyState.FAILED, "the analysis ended 3 times without a result")
    assert "ended 3 times" in here.report_text
    here.ledger.replay_failed(STUDY, at(200))
    assert here.worker().run("t1")
    assert here.state == (StudyState.EXPLAINED, None)


def test_a_full_disk_puts_the_task_back_and_costs_no_attempt(node, monkeypatch):
    here = node()

    def full(*_):
        raise OutOfResources("Disk full")

    monkeypatch.setattr(here.spool, "write_outbox", full)
    assert not here.worker().run("t1")
    found = here.ledger.task("t1")
    assert (found.state, found.attempts) == (TaskState.PENDING, 0)
    assert here.ledger.pending_tasks(at(31), timedelta(seconds=30)) == []
    monkeypatch.undo()
    here.now = at(60)
    assert here.worker().run("t1")


def test_a_route_without_destinations_still_finishes_the_study(node):
    here = node()
    here.settings = here.settings.model_copy(update={"destinations": ()})
    here.receive(2)
    here.add_task("t2", 2, route="", selected=(), reason="it is a lateral view")
    assert here.worker().run("t2")
    assert here.owed == []


# ---- time


def real_clock() -> datetime:
    return datetime.now(UTC)


def test_the_lease_is_kept_as_long_as_the_task_runs(node):
    here = node(lease_seconds=1)
    expired = []

    def slowly() -> None:
        for _ in range(8):
            time.sleep(0.2)
            expired.extend(here.ledger.expired_leases(real_clock()))

    assert here.worker(Doing(slowly), clock=real_clock).run("t1")
    assert expired == []


def test_how_far_a_long_analysis_is_is_told_with_the_lease(node):
    here = node(lease_seconds=1)
    seen = []

    def slowly() -> None:
        for part in (0.25, 0.75):
            progress.tell(part)
            until = time.monotonic() + 30
            while (done := [one.done for one in here.ledger.studies()]) != [part] and time.monotonic() < until:
                time.sleep(0.05)
            seen.extend(done)

    assert here.worker(Doing(slowly), clock=real_clock).run("t1")
    assert seen == [0.25, 0.75]
    assert [one.done for one in here.ledger.studies()] == [None]


def test_the_soft_limit_ends_the_analysis_with_a_report(node):
    here = node(soft_time_limit=1)
    started = time.monotonic()
    assert here.worker(Doing(lambda: time.sleep(30))).run("t1")
    assert time.monotonic() - started < 10
    assert here.state == (StudyState.FAILED, "the analysis took longer than 1 s")
    assert here.report


def test_the_soft_limit_ends_a_picture_that_is_not_finished_with_a_report(node, monkeypatch):
    overlay, ended = plugins.load(building.RESULTS, "overlay"), []

    class Endless:
        def __getattr__(self, name):
            return getattr(overlay, name)

        def build(self, context):
            try:
                time.sleep(30 if context.images else 0)
            finally:
                ended.append(bool(context.images))
            return overlay.build(context)

    monkeypatch.setattr("dicom_node.results.objects.overlay.PLUGIN", Endless())
    here = node(soft_time_limit=3)
    started = time.monotonic()
    assert here.worker().run("t1")
    assert time.monotonic() - started < 20
    assert ended == [True, False], "nothing of it is left to run beside the next study"
    assert here.state == (StudyState.FAILED, "the analysis took longer than 3 s")
    assert here.report


def test_the_soft_limit_leaves_no_alarm_behind():
    with leases.soft_limit(0.05):
        pass
    time.sleep(0.1)
    with pytest.raises(leases.SoftLimitExceeded), leases.soft_limit(0.05):
        time.sleep(5)


def test_at_the_hard_limit_the_process_ends_and_the_task_is_free_at_once(node):
    here = node(hard_time_limit=1, lease_seconds=600)
    ended: list[int] = []
    let_go = threading.Event()

    def hang() -> None:
        let_go.wait(20)

    one = here.worker(Doing(hang), clock=real_clock, end=ended.append)
    thread = threading.Thread(target=one.run, args=("t1",))
    thread.start()
    wait_for(lambda: ended, 60)
    assert ended == [leases.EXIT_HARD_LIMIT]
    (found,) = here.ledger.expired_leases(real_clock())
    assert (found.task_id, found.attempts) == ("t1", 1)
    assert here.ledger.reclaim("t1", real_clock())
    let_go.set()
    thread.join(10)
    assert here.owed == []


def test_at_the_hard_limit_the_process_ends_even_when_the_ledger_hangs(node, monkeypatch):
    here = node(hard_time_limit=1)
    monkeypatch.setattr(leases, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(here.ledger, "expire_lease", lambda *_: time.sleep(30))
    ended: list[int] = []
    let_go = threading.Event()
    one = here.worker(Doing(lambda: let_go.wait(20)), end=ended.append)
    thread = threading.Thread(target=one.run, args=("t1",))
    thread.start()
    wait_for(lambda: ended, 60)
    let_go.set()
    thread.join(10)


class AcceleratorError(RuntimeError):
    """As PyTorch calls it since 2.8."""


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: an illegal memory access was encountered"), AcceleratorError("gone")]
)
def test_a_lost_gpu_ends_the_process_and_answers_nothing(node, error):
    """Every study that the process took after it would be answered "not analysed"."""
    here = node(max_attempts=3, lease_seconds=600)
    ended: list[int] = []

    def lost() -> None:
        raise error

    assert here.worker(Doing(lost), clock=real_clock, end=ended.append).run("t1") is False
    assert ended == [leases.EXIT_HARD_LIMIT]
    assert here.owed == []
    (found,) = here.ledger.expired_leases(real_clock())
    assert (found.task_id, found.attempts) == ("t1", 1)
    assert here.ledger.reclaim("t1", real_clock())
    assert here.worker(clock=real_clock).run("t1"), "a fresh process does it"


def test_a_lack_of_gpu_memory_is_no_lost_gpu(node):
    class OutOfMemoryError(RuntimeError):
        pass

    here, ended = node(), list[int]()

    def lacks() -> None:
        raise OutOfMemoryError("CUDA out of memory")

    assert here.worker(Doing(lacks), end=ended.append).run("t1")
    assert ended == []


def test_a_forked_worker_is_refused_before_it_takes_anything(node):
    here = node()
    one = here.worker()
    child = os.fork()
    if child == 0:
        try:
            one.run("t1")
        except ConfigError as error:
            os._exit(7 if "solo" in str(error) else 1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert here.ledger.task("t1").state is TaskState.PENDING


def test_deliveries_are_named_by_task_object_and_destination(node):
    here = node()
    here.worker().run("t1")
    rows = here.ledger.deliveries()
    assert len({one.delivery_id for one in rows}) == len(rows) == len({*here.owed})
    assert {(one.attempts, one.next_attempt_at) for one in rows} == {(0, at(30))}
