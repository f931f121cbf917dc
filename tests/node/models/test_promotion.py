"""Which version runs: the ledger's rows, promotion that may be killed, and workers that follow without a restart."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom.uid import generate_uid
from radiographs import encode, synthetic
from structlog.testing import capture_logs
from tasks import Doing, Node
from toy_explainer import ToyExplainer
from toys import Site, bundle, toy
from working import CR_STORAGE, Peer, RedisServer, at, free_port, python, short_folder, wait_for

from dicom_node.deliver import scu
from dicom_node.errors import ConfigError, DeliveryUnreachable
from dicom_node.models import promotion
from dicom_node.models.promotion import FORCED, NotDeployed
from dicom_node.nouns import Destination, StudyState
from dicom_node.settings.loading import load_settings
from dicom_node.settings.sections import DEFAULT_BUNDLE
from dicom_node.storage import bundles
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.ledger.deployments import NothingBefore, Overtaken
from explain_core.bundles import files
from explain_core.bundles.registry import Registry
from explain_core.bundles.tracking import RegistryUnreachable
from explain_core.errors import BundleError


def deploy(ledger, digest: str, seconds: float = 0, role="champion", **changes):
    values = {"number": 1, "name": "toy", "version": digest, "by": "ada", "reason": "", "now": at(seconds)}
    return ledger.deploy(role, digest=digest, **values | changes)


# ---- the ledger's rows


def test_a_deployment_says_who_when_why_and_what_was_before(ledger):
    assert ledger.deployed("champion") is None
    deploy(ledger, "a", 1)
    made = deploy(ledger, "b", 2, number=7, by="bob", reason="better", forced=True)
    assert ledger.deployed("champion") == made
    assert (made.role, made.digest, made.number, made.by, made.reason, made.forced, made.previous_digest) == (
        *("champion", "b", 7, "bob", "better", True, "a"),
    )
    assert made.deployed_at == at(2)
    assert [one.digest for one in ledger.history()] == ["a", "b"]


def test_rolling_back_walks_down_the_promotions_and_never_to_and_fro(ledger):
    def back() -> str:
        return ledger.rollback("champion", by="ada", reason="", now=at(50)).digest

    with pytest.raises(NothingBefore):
        back()
    for digest in "abc":
        deploy(ledger, digest)
    assert back() == "b"
    assert back() == "a"
    deploy(ledger, "d")
    assert back() == "a"
    assert back() == ""
    assert ledger.deployed("champion") is None
    with pytest.raises(NothingBefore):
        back()
    rows = ledger.history("champion")
    assert [one.digest for one in rows] == ["a", "b", "c", "b", "a", "d", "a", ""], "whatever the clock says"


def test_a_rollback_keeps_what_the_version_was_called(ledger):
    first = deploy(ledger, "a", number=3, version="1.2")
    deploy(ledger, "b", number=4)
    again = ledger.rollback("champion", by="bob", reason="worse", now=at(9))
    assert (again.number, again.version, again.by, again.reason) == (first.number, first.version, "bob", "worse")
    assert (again.action, again.previous_digest) == ("rollback", "b")


def test_a_rollback_to_something_else_than_was_made_sure_of_changes_nothing(ledger):
    deploy(ledger, "a")
    deploy(ledger, "b")
    with pytest.raises(Overtaken, match="look again"):
        ledger.rollback("champion", by="ada", reason="", now=at(1), expected="x")
    assert ledger.deployed("champion").digest == "b"


def test_what_runs_already_is_not_deployed_again(ledger):
    deploy(ledger, "a")
    deploy(ledger, "a", reason="again")
    assert len(ledger.history()) == 1


def test_a_challenger_is_withdrawn_by_hand_or_by_its_promotion(ledger):
    assert not ledger.withdraw("challenger", by="ada", reason="", now=at(1))
    deploy(ledger, "a")
    deploy(ledger, "b", role="challenger")
    assert (ledger.deployed("champion").digest, ledger.deployed("challenger").digest) == ("a", "b")
    assert ledger.withdraw("challenger", by="ada", reason="", now=at(2))
    assert ledger.deployed("challenger") is None
    deploy(ledger, "b", role="challenger")
    deploy(ledger, "c")
    assert ledger.deployed("challenger").digest == "b"
    deploy(ledger, "b")
    assert ledger.deployed("challenger") is None


def test_deployments_that_come_together_all_count_one_after_the_other(ledger):
    threads = [threading.Thread(target=deploy, args=(ledger, f"d{number}")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = sorted(ledger.history("champion"), key=lambda row: row.sequence)
    assert [row.sequence for row in rows] == list(range(1, 9))
    assert [row.previous_digest for row in rows] == ["", *(row.digest for row in rows[:-1])]


# ---- promotion


@pytest.fixture
def site(tmp_path, empty_registry):
    made = Site(tmp_path, empty_registry)
    yield made
    made.ledger.close()


@pytest.mark.slow
def test_a_version_that_passed_is_promoted_with_its_files_in_the_store(site):
    one = site.version("1")
    row = site.promote(1)
    assert (row.digest, row.forced) == (one.digest, False)
    assert bundles.check(site.settings, row) == one.digest
    assert site.running().current().identity.version == "1"


def test_a_version_that_does_not_serve_the_nodes_methods_is_not_promoted(site):
    parent = files.verify(site.settings.model.bundle)
    made = bundle(site.folder / "1", "1", "gradient")
    site.registry.register(made, gate="passed", lineage={"parent_digest": parent}, metrics={})
    for options in ({}, {"force": True, "reason": "x"}):
        with pytest.raises(BundleError, match=r"method similar_adversarial has no scale .* training scale BUNDLE --m"):
            site.promote(1, **options)
    assert site.ledger.history() == []
    results = site.settings.results.model_copy(update={"methods": ("gradient",)})
    site.settings = site.settings.model_copy(update={"results": results})
    assert site.promote(1).digest == files.verify(made)


@pytest.mark.parametrize("gate", ["refused", "none"])
def test_a_version_that_did_not_pass_needs_force_and_a_reason_which_is_kept(site, gate):
    site.version("1", gate)
    for options in ({}, {"reason": "x"}, {"force": True}, {"force": True, "reason": " "}):
        with pytest.raises(NotDeployed, match="version 1 was"):
            site.promote(1, **options)
    assert site.ledger.history() == []
    row = site.promote(1, force=True, reason="the ward asked")
    assert (row.forced, row.reason, row.by) == (True, "the ward asked", "ada")
    site.follow()
    assert site.registry.version(1).tags[FORCED] == "2026-03-01T12:00:00Z ada: the ward asked"


def test_a_version_is_promoted_only_over_the_champion_that_it_was_compared_with(site):
    default = files.verify(site.settings.model.bundle)
    one = site.version("1", parent_digest=default)
    two = site.version("2", parent_digest=one.digest)
    late = site.version("3", gate="forced", parent_digest=default)
    mute = site.version("4", parent_digest="")
    with pytest.raises(NotDeployed, match="version 2 was compared with version 1, which does not run any more: retr"):
        site.promote(2)
    assert not site.promote(1).forced
    assert not site.promote(2).forced
    assert not site.promote(2).forced, "what runs already may be brought again"
    for number, why in ((late.number, f"compared with {default[:12]}, which"), (mute.number, "does not say which")):
        for options in ({}, {"reason": "x"}, {"force": True}):
            with pytest.raises(NotDeployed, match=why):
                site.promote(number, **options)
    assert site.ledger.deployed("champion").digest == two.digest
    row = site.promote(3, force=True, reason="the ward asked")
    assert (row.forced, row.reason) == (True, "the ward asked")


@pytest.mark.parametrize("before", [False, True])
def test_of_two_promotions_at_the_same_moment_the_later_is_decided_anew(site, before):
    if before:
        site.promote(site.version("0").number)
    rivals = [site.version(name, parent_digest=site.runs()) for name in ("1", "2")]

    class Slow(Registry):
        def fetch(self, number, store):
            deploy(site.ledger, rivals[1].digest, 1, number=rivals[1].number)
            return super().fetch(number, store)

    uri, artifacts = site.settings.registry.uri, site.settings.registry.artifacts
    with pytest.raises(NotDeployed, match="at the same moment; look again"):
        promotion.promote(
            site.settings, site.ledger, Slow(uri, "chest", artifacts), rivals[0].number, by="ada", now=at(2)
        )
    assert site.ledger.deployed("champion").digest == rivals[1].digest
    with pytest.raises(NotDeployed, match="which does not run any more"):
        site.promote(rivals[0].number)


@pytest.mark.parametrize("turned", [0, 120])
def test_a_rehearsal_with_turned_labels_needs_force(site, turned):
    """The job's own words are read: a share of the patients alone is an honest model."""
    from training.retrain.job import RehearsalTable
    from training.retrain.judging import rehearsal

    job = SimpleNamespace(rehearsal=RehearsalTable(share=0.5, flipped=0.2 if turned else 0))
    said = rehearsal(SimpleNamespace(job=job, made=lambda _: {"flipped_labels": turned}))
    site.version("1", **said)
    if turned:
        with pytest.raises(NotDeployed, match="rehearsal: 50% of the patients, 120 labels turned"):
            site.promote(1)
    assert site.promote(1, force=bool(turned), reason="to see").forced == bool(turned)


def test_aliases_follow_the_ledger_and_what_differed_is_said(site):
    for name in "123":
        site.version(name)
    site.promote(1)
    promotion.shadow(site.settings, site.ledger, site.registry, 2, by="ada", now=at(1))
    assert len(site.follow()) == 2
    assert site.aliases() == {1: {"champion"}, 2: {"challenger"}}
    assert site.follow() == []
    site.registry.set_alias("champion", 3)  # somebody else's hand
    assert site.follow() == [
        "the registry's alias champion pointed to version 3; by the ledger it now points to version 1"
    ]
    site.promote(2)
    site.follow()
    assert site.aliases() == {2: {"champion"}}
    site.rollback()
    site.rollback()
    site.follow()
    assert site.aliases() == {}, "the configured bundle is in no registry here"


def test_a_rollback_needs_no_registry_unless_the_files_are_damaged(site):
    first = site.version("1")
    site.version("2")
    site.promote(1)
    site.promote(2)
    (site.settings.model.store / first.digest / "model_card.md").write_text("?")
    with pytest.raises(RegistryUnreachable):
        site.rollback()
    assert site.ledger.deployed("champion").number == 2
    assert site.rollback(site.registry).number == 1
    assert bundles.check(site.settings, site.ledger.deployed("champion")) == first.digest
    assert site.rollback().digest == ""
    with pytest.raises(NotDeployed, match="configured bundle runs"):
        site.rollback()


def test_a_promotion_whose_files_are_damaged_changes_nothing(site):
    site.version("1")
    (kept,) = (site.folder / "artifacts").rglob("model_card.md")
    kept.write_text("?")
    with pytest.raises(BundleError):
        site.promote(1)
    assert site.ledger.history() == []


KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
import explain_core.bundles.registry as registry_module
from dicom_node.models import promotion
from dicom_node.storage.ledger import Ledger, deployments
from dicom_node.settings.loading import load_settings

settings = load_settings(Path(sys.argv[1]), {})
ledger, registry = Ledger(settings.node.database), promotion.open_registry(settings)

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def after(function):
    def deadly(*arguments, **options):
        function(*arguments, **options)
        die()
    return deadly

match sys.argv[2]:
    case "fetched": registry_module.place = die
    case "placed": registry_module.place = after(registry_module.place)
    case "inserted": deployments._insert = after(deployments._insert)
    case "committed": ledger.deploy = after(ledger.deploy)
promotion.promote(settings, ledger, registry, 2, by="ada", now=datetime.now(UTC))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("point", "expected"), [("fetched", 1), ("placed", 1), ("inserted", 1), ("committed", 2)])
def test_a_promotion_killed_at_any_point_leaves_one_of_the_two_running(site, point, expected):
    site.version("1")
    site.version("2")
    site.promote(1)
    site.follow()
    running = site.running()
    running.current()
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(site.config), point]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert site.ledger.deployed("champion").number == expected
    for one in (running, site.running()):  # a worker that was running, and one that starts now
        assert one.current().identity.version == str(expected)
    assert len(site.follow()) == expected - 1, "the alias was left behind where the ledger was ahead"
    site.promote(2)
    site.follow()
    assert site.running().current().identity.version == "2"
    assert site.aliases() == {2: {"champion"}}
    assert sorted(path.name for path in site.settings.model.store.iterdir() if path.name[0] != ".") == sorted(
        one.digest for one in site.registry.versions()
    )


# ---- a worker follows


@pytest.mark.slow
def test_a_worker_looks_at_files_only_when_another_version_is_deployed(site):
    loads = []
    running = site.running(lambda path: loads.append(path) or toy(path))
    for _ in range(3):
        assert running.current().identity.version == "0"
    site.version("1")
    site.promote(1)
    for _ in range(3):
        assert running.current().identity.version == "1"
    site.rollback()
    assert running.current().identity.version == "0"
    assert len(loads) == 3


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "tampered", "another"])
def test_a_worker_keeps_its_model_while_the_new_one_cannot_be_used_and_says_so_once(site, damage):
    site.version("1")
    site.promote(1)
    running = site.running()
    running.current()
    two = site.version("2")
    site.promote(2)
    folder = site.settings.model.store / two.digest
    if damage == "tampered":
        (folder / "classifier.safetensors").write_bytes(b"evil")
    else:
        shutil.rmtree(folder)
        if damage == "another":
            shutil.copytree(site.folder / "1", folder)
    with capture_logs() as logged:
        for _ in range(3):
            assert running.current().identity.version == "1"
    (line,) = [one for one in logged if one["log_level"] == "error"]
    assert (line["event"], line["wanted"], line["runs"]) == ("deployed model cannot be used", two.digest, "toy 1")
    newest = site.ledger.swaps()[0]
    assert newest.trouble
    assert (newest.wanted, newest.version) == (two.digest, "toy 1")
    with pytest.raises(ConfigError):
        site.running().current()  # a worker that starts has no other model, and runs none that nobody deployed
    shutil.rmtree(folder, ignore_errors=True)
    site.registry.fetch(2, site.settings.model.store)
    assert running.current().identity.version == "2"
    assert site.ledger.swaps()[0].trouble is None


class Watched(ToyExplainer):
    """The toy, which can be watched by weak references."""


@pytest.mark.slow
def test_a_study_ends_with_the_model_it_began_with_and_the_next_has_the_new_one(tmp_path, site):
    (tmp_path / "node").mkdir()
    here = Node(tmp_path / "node")
    site.ledger.close()
    site.ledger = here.ledger
    for name in "12":
        site.version(name)
    site.promote(1)
    seen = []

    def load(folder):
        explainer = toy(folder, lambda: Doing(lambda: seen or (seen.append(1), site.promote(2))))
        watched.append(weakref.ref(explainer))
        return explainer

    watched: list[weakref.ref] = []
    worker = here.worker(model=site.running(load).current)
    assert worker.run("t1")
    assert named(here) == {site.registry.version(1).digest}
    here.receive(2)
    here.add_task("t2", 2)
    assert worker.run("t2")
    assert named(here, "t2") == {site.registry.version(2).digest}
    assert [one() is None for one in watched] == [True, False], "one model in memory after the swap"
    for number in (1, 2):
        observed = here.ledger.observed(site.registry.version(number).digest)
        assert [one.model_version for one in observed] == [str(number)], "each image is observed with its model"
    here.ledger.close()


def named(here: Node, task: str = "t1") -> set[str]:
    """The digests that the results of a task name, each by every one of its objects."""
    known = {one.digest for one in here.ledger.history()}
    paths = {one.path for one in here.ledger.deliveries() if one.task_id == task}
    found = [{digest for digest in known if digest.encode() in path.read_bytes()} for path in paths]
    assert all(len(one) == 1 for one in found), found
    return set.union(*found)


# ---- a whole node

CONFIG = """
[node]
port = {port}
calling_ae_titles = ["MODALITY"]
spool = "{folder}/spool"
database = "sqlite:///{folder}/ledger.sqlite"
low_water_mb = 0
[audit]
folder = "{folder}/audit"
[metrics]
folder = "{folder}/metrics"
[study]
quiet_seconds = 0.3
[broker]
url = "{redis}"
[model]
store = "{folder}/models"
device = "cpu"
augmentations = 0
[registry]
uri = "sqlite:///{folder}/mlflow.sqlite"
artifacts = "{folder}/artifacts"
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
"""
ROLES = ("listener", "dispatcher", "worker", "sender")


class WholeNode:
    """Redis, a PACS and the four roles, as `dicom-node serve` starts them, with the real model."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = folder
        shutil.copy(database, folder / "mlflow.sqlite")
        self.redis = RedisServer(folder)
        self.redis.start()
        self.pacs = Peer().start()
        self.port = free_port()
        self.config = folder / "node.toml"
        self.config.write_text(CONFIG.format(port=self.port, folder=folder, redis=self.redis.url, pacs=self.pacs.port))
        self.ledger = Ledger(load_settings(self.config, {}).node.database)
        self.ledger.create()
        self.processes = {role: self._start(role) for role in ROLES}
        self._peer = Destination(name="node", ae_title="EXPLAIN", host="127.0.0.1", port=self.port)
        wait_for(self._listening, 60, "the listener")
        self.digest: dict[str, str] = {}

    def _start(self, role: str):
        with (self.folder / f"{role}.log").open("ab") as log:
            return python(
                *("-m", "dicom_node", "serve", "--only", role, "--config", str(self.config)), stdout=log, stderr=log
            )

    def _listening(self) -> bool:
        try:
            return scu.echo(self._peer, calling_ae_title="MODALITY", timeout=5) == 0
        except DeliveryUnreachable:
            return False

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.pacs.stop()
        self.redis.stop()
        self.ledger.close()

    def model(self, *arguments: str, expect: int = 0, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dicom_node", "model", *arguments, "--config", str(self.config)],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout

    def version(self, name: str) -> None:
        """A copy of the default bundle that calls itself otherwise, registered and promoted."""
        folder = self.folder / name
        shutil.copytree(DEFAULT_BUNDLE, folder)
        text = (folder / "bundle.toml").read_text()
        (folder / "bundle.toml").write_text(re.sub(r'(?m)^version = ".*"$', f'version = "{name}"', text))
        files.write_sums(folder)
        self.digest[name] = files.verify(folder)
        settings = load_settings(self.config, {})
        registry = promotion.open_registry(settings)
        lineage = {"parent_digest": self.digest["default"]}
        registry.register(folder, gate="passed", lineage=lineage, metrics={})

    def promote(self, number: int) -> None:
        settings = load_settings(self.config, {})
        registry = promotion.open_registry(settings)
        promotion.promote(settings, self.ledger, registry, number, by="ada", now=at(0))

    def explained_by(self) -> set[str]:
        """Send a study; the digests in its results, of which every one must name one."""
        uids = [str(generate_uid()) for _ in range(3)]
        names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        path = self.folder / f"{uids[2]}.dcm"
        path.write_bytes(encode(synthetic(bits=8, **dict(zip(names, uids, strict=True)))))
        request = scu.StoreRequest(key="x", sop_instance_uid=uids[2], sop_class_uid=CR_STORAGE, path=path)
        (outcome,) = scu.store(self._peer, [request], calling_ae_title="MODALITY", timeout=30)
        assert outcome.error is None

        def delivered() -> bool:
            rows = [one for one in self.ledger.studies() if one.study_instance_uid == uids[0]]
            assert not rows or rows[0].state is not StudyState.FAILED, self.log()
            return bool(rows) and self.ledger.timeline(uids[0]).delivered_at is not None

        try:
            wait_for(delivered, 60)
        except AssertionError:
            raise AssertionError(self.log()) from None
        owed = {one.sop_instance_uid for one in self.ledger.deliveries(study=uids[0])}
        results = [data for uid, _, data in self.pacs.received if uid in owed]
        assert len(results) == 3
        found = [{name for name, digest in self.digest.items() if digest.encode() in data} for data in results]
        assert all(len(one) == 1 for one in found), found
        return set.union(*found)

    def log(self) -> str:
        return "".join((self.folder / f"{role}.log").read_text()[-3000:] for role in ROLES)


@pytest.mark.slow
def test_a_running_node_takes_each_new_model_between_two_studies(empty_registry):
    with short_folder() as folder:
        node = WholeNode(folder, empty_registry)
        try:
            node.digest["default"] = files.verify(DEFAULT_BUNDLE)
            assert node.explained_by() == {"default"}
            node.version("90.0.0")
            assert "version 1, opacity-evidence 90.0.0" in node.model("promote", "1")
            assert node.explained_by() == {"90.0.0"}
            away = {"DICOM_NODE_REGISTRY__URI": "http://127.0.0.1:9"}
            assert "does not answer" in node.model("rollback", **away)
            assert node.explained_by() == {"default"}
            node.version("91.0.0")
            node.promote(2)
            generators = folder / "models" / node.digest["91.0.0"] / "generators.safetensors"
            generators.write_bytes(generators.read_bytes()[:-1] + b"\xff")
            assert node.explained_by() == {"default"}, "the new one is tampered with, the old one goes on"
            assert (folder / "worker.log").read_text().count("deployed model cannot be used") == 1
            node.promote(2)  # brings the files again
            assert node.explained_by() == {"91.0.0"}
            assert all(process.poll() is None for process in node.processes.values())
            assert {one.process for one in node.ledger.swaps()} == {node.ledger.swaps()[0].process}, "one worker"
        finally:
            node.stop()
