"""The recipe for Orthanc, run: radiographs are routed when they are complete, results come back, nothing goes round.

Orthanc, the node's roles and Redis are processes; the files of deploy/pacs/orthanc are used as they are shipped, with
other ports and shorter waits.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from orthanc_recipe import RECIPE, RecipeOrthanc, picture, storescu, with_values
from receiving import running as listening
from retraining import make_champion
from sqlalchemy import func, select
from working import RedisServer, free_port, short_folder, wait_for

from dicom_node.app import open_ledger
from dicom_node.dicom import codes
from dicom_node.settings.loading import load_settings
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.ledger.schema import touches
from dicom_node.supervision import Supervisor

pytestmark = [pytest.mark.external, pytest.mark.slow]

ROLES = ("listener", "dispatcher", "worker", "sender")
RESULTS = {"OT", "SR", "PR"}
WAYS_BACK = {"C-STORE": "committed", "STOW-RS": "sent"}


@pytest.fixture(autouse=True)
def _orthanc_is_there():
    if RecipeOrthanc.executable() is None:
        pytest.skip("Orthanc is not installed; deploy/install-debian-packages.sh installs it")


@dataclass
class Site:
    """Orthanc and the node beside it."""

    orthanc: RecipeOrthanc
    ledger: Ledger
    folder: Path
    supervisor: Supervisor

    def wait_for(self, condition, what):
        def met():
            self.supervisor.check()
            return condition()

        try:
            wait_for(met, 120, what)
        except AssertionError as error:
            logs = "\n".join(f"--- {one.name}\n{one.read_text()[-2500:]}" for one in self.folder.rglob("*.log"))
            raise AssertionError(f"{error}\n{logs}") from None

    def modalities(self, study):
        return {one["Modality"] for one in self.orthanc.series(study)}

    def transfers_received(self):
        """Associations over which the node got images."""
        with self.ledger._read() as connection:
            return connection.execute(select(func.count(touches.c.association_id.distinct()))).scalar_one()


@contextlib.contextmanager
def site(folder, way_back, environment):
    """Orthanc and a node with a bundle so small that explaining takes a second."""
    redis, port = RedisServer(folder), free_port()
    orthanc = RecipeOrthanc(folder / "orthanc", port, dicomweb=way_back == "STOW-RS")
    make_champion(folder / "bundle")
    shipped = (RECIPE / "dicom-node.toml").read_text()
    if way_back == "STOW-RS":
        shipped = shipped[: shipped.index("[[destinations]]")] + over_dicomweb(shipped)
        shipped = shipped.replace(":8042/", f":{orthanc.http_port}/")
    else:
        shipped = shipped.replace("port = 4242", f"port = {orthanc.port}")
    shipped = shipped.replace("port = 11112", f"port = {port}")
    (folder / "node.toml").write_text(with_values(shipped, quiet_seconds=0.5))
    for key, value in {
        "NODE__SPOOL": folder / "spool",
        "NODE__DATABASE": f"sqlite:///{folder}/ledger.sqlite",
        "NODE__LOW_WATER_MB": 0,
        "AUDIT__FOLDER": folder / "audit",
        "BROKER__URL": redis.url,
        "MODEL__BUNDLE": folder / "bundle",
        "MODEL__AUGMENTATIONS": 0,
    }.items():
        environment.setenv(f"DICOM_NODE_{key}", str(value))
    with contextlib.ExitStack() as stack:
        redis.start()
        stack.callback(redis.stop)
        orthanc.start()
        stack.callback(orthanc.stop)
        ledger = open_ledger(load_settings(folder / "node.toml"))
        stack.callback(ledger.close)
        supervisor = Supervisor(folder / "node.toml", ROLES, lambda role: (folder / f"{role}.log").open("ab"))
        supervisor.start()
        stack.callback(supervisor.stop)
        here = Site(orthanc, ledger, folder, supervisor)
        here.wait_for(lambda: "listening" in (folder / "listener.log").read_text(), "the listener")
        yield here


def over_dicomweb(shipped):
    """The destination that stands in comments at the end."""
    lines = shipped[shipped.index("# [[destinations]]") :].splitlines()
    return "\n".join(line.removeprefix("# ") for line in lines) + "\n"


@pytest.mark.parametrize("way_back", WAYS_BACK)
def test_a_radiograph_is_routed_once_and_its_results_come_back(way_back, monkeypatch, tmp_path):
    chest, study = picture(tmp_path, "chest")
    hand, other = picture(tmp_path, "hand", BodyPartExamined="HAND", SeriesDescription="", StudyDescription="")
    with short_folder() as folder, site(folder, way_back, monkeypatch) as here:
        assert storescu(here.orthanc, chest, hand).returncode == 0
        here.wait_for(lambda: here.modalities(study) == {"CR", *RESULTS}, "results in Orthanc")
        here.wait_for(
            lambda: {one.state.value for one in here.ledger.deliveries()} - {"standby"} == {WAYS_BACK[way_back]},
            "deliveries settled",
        )
        assert here.modalities(other) == {"CR"}
        assert here.ledger.received_instances(other) == []
        for series in here.orthanc.series(study):
            assert (series["Modality"] in RESULTS) == (series.get("Manufacturer") == "DICOM explanation node")

        here.wait_for(lambda: here.orthanc.is_stable_again(study), "a second event, about the results")
        assert len(here.orthanc.transfers()) == here.transfers_received() == 1, "nothing goes round"

        here.orthanc.stop()
        here.orthanc.start()
        late, _ = picture(tmp_path, "late", StudyInstanceUID=study)
        again, second = picture(tmp_path, "again", BodyPartExamined="")
        assert storescu(here.orthanc, late, again).returncode == 0
        here.wait_for(
            lambda: here.modalities(second) == {"CR", "SR"}, "the report on an image that states no body part"
        )
        here.wait_for(lambda: len(here.ledger.received_instances(study)) == 2, "the late image")
        here.wait_for(lambda: here.orthanc.is_stable_again(second), "its second event")
        assert [len(one) for one in here.orthanc.transfers()] == [1, 1, 1], "of the first study the late image alone"


@contextlib.contextmanager
def started(orthanc):
    orthanc.start()
    try:
        yield orthanc
    finally:
        orthanc.stop()


def test_what_fails_while_the_node_is_away_follows_when_it_is_back(tmp_path):
    port = free_port()
    (first, _), (second, _) = (picture(tmp_path, name) for name in ("first", "second"))
    hand, _ = picture(tmp_path, "hand", BodyPartExamined="HAND")
    with started(RecipeOrthanc(tmp_path / "orthanc", port)) as orthanc:
        assert storescu(orthanc, first).returncode == 0
        wait_for(lambda: orthanc.transfer_states() == ["Failure"], 30)
        assert storescu(orthanc, second).returncode == 0
        wait_for(lambda: orthanc.transfer_states() == ["Failure"] * 2, 30)
        with listening(tmp_path, port=port, calling_ae_titles="ORTHANC") as node:
            assert storescu(orthanc, hand).returncode == 0, "of which nothing is sent"
            wait_for(lambda: orthanc.transfer_states() == ["Success"] * 2, 30)
            assert len(node.files("instances")) == 2


def test_a_study_whose_event_is_lost_in_a_restart_is_sent_after_it(tmp_path):
    chest, _ = picture(tmp_path, "chest")
    port = free_port()
    orthanc = RecipeOrthanc(tmp_path / "orthanc", port)
    with started(orthanc):
        assert storescu(orthanc, chest).returncode == 0
    with listening(tmp_path, port=port, calling_ae_titles="ORTHANC") as node, started(orthanc):
        wait_for(lambda: orthanc.transfer_states() == ["Success"], 30)
        assert len(node.files("instances")) == 1


def test_only_those_whom_orthanc_knows_may_store(tmp_path):
    chest, study = picture(tmp_path, "chest")
    with started(RecipeOrthanc(tmp_path / "orthanc", free_port())) as orthanc:
        assert storescu(orthanc, chest, title="STRANGER").returncode != 0
        assert orthanc.study(study) is None


def test_the_rule_knows_the_node_s_words_for_the_chest_and_nothing_of_its_results(tmp_path):
    cases = {("CR", word, "Maker"): True for word in codes._CHEST_WORDS}
    cases |= {(modality, "CHEST_PA", "Maker"): True for modality in codes.MODALITIES}
    cases |= {("DX", "", "Maker"): True, ("DX", "thorax ap", ""): True}
    cases |= {("CT", "CHEST", "Maker"): False, ("CR", "HAND", "Maker"): False, ("CR", "LONGBONE", "Maker"): False}
    cases |= {
        (modality, "CHEST", "DICOM explanation node"): False for modality in ("CR", "OT", "SR", "PR", "SEG", "KO")
    }
    with started(RecipeOrthanc(tmp_path / "orthanc", free_port())) as orthanc:
        script = "".join(
            f"print(IsChestRadiograph({{MainDicomTags={{Modality='{modality}',BodyPartExamined='{part}',"
            f"Manufacturer='{maker}'}}}}))\n"
            for modality, part, maker in cases
        )
        said = [line == "true" for line in orthanc.run_lua(script).split()]
    assert dict(zip(cases, said, strict=True)) == cases
