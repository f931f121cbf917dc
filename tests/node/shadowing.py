"""Shared by the tests of observations, shadow mode and drift: a node whose models are toys in real bundle folders.

As a program, `python shadowing.py FOLDER` is the shadow of the node in FOLDER; its model says when it begins
(FOLDER/began) and, where FOLDER/hang exists, never ends.
"""

import json
import sys
import threading
import time
import tomllib
from datetime import timedelta
from pathlib import Path

import numpy as np
from pydicom import Dataset
from radiographs import encode, phantom, synthetic
from toy_explainer import ToyExplainer
from working import association, at, instance, settings, study, task

from dicom_node.explain import record
from dicom_node.explain.pipeline import Analysis
from dicom_node.explain.worker import Worker
from dicom_node.models.shadow import Shadow
from dicom_node.nouns import StudyState
from dicom_node.results import AssessedImage, SourceReference
from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.spool import Spool
from explain_core.bundles.files import verify, write_sums
from explain_core.explanation import ModelIdentity

RULES = [{"name": "chest", "action": "explain", "destinations": ["pacs"]}]
STUDIES = "1.2.826.0.1.3680043.9.7"


def picture(number: int = 1, **changes) -> bytes:
    """A chest radiograph as a file; the higher its number, the fainter its bright spot."""
    plain = np.minimum(phantom(), 0.75)
    made = instance(1, study=f"{STUDIES}.{number}")
    return encode(
        synthetic(
            np.rint((plain + (phantom() - plain) / number) * 255),
            bits=8,
            SOPInstanceUID=made.sop_instance_uid,
            StudyInstanceUID=made.study_instance_uid,
            SeriesInstanceUID=made.series_instance_uid,
            **changes,
        )
    )


def make_bundle(folder: Path, version: str, threshold: float = 0.5, reference: dict | None = None) -> str:
    """The files of a bundle whose weights are words; returns its digest."""
    folder.mkdir(parents=True)
    (folder / "bundle.toml").write_text(f'name = "toy"\nversion = "{version}"\nthreshold = {threshold}\n')
    for name in ("classifier.safetensors", "generators.safetensors", "model_card.md"):
        (folder / name).write_text("nothing")
    if reference is not None:
        (folder / "reference.json").write_text(json.dumps(reference))
    write_sums(folder)
    return verify(folder)


def load(folder: Path) -> ToyExplainer:
    """The toy that a bundle describes."""
    description = tomllib.loads((folder / "bundle.toml").read_text())
    identity = ModelIdentity(name="toy", version=description["version"], digest=verify(folder))
    return ToyExplainer(identity=identity, threshold=description["threshold"], roughness_limit=0.5)


class Node:
    """A node with one study per image, a champion that explains them and a shadow."""

    def __init__(self, folder: Path, **sections) -> None:
        self.folder = folder
        made = {
            "rules": RULES,
            "model": {"bundle": folder / "configured", "store": folder / "models", "device": "cpu"},
            "results": {"objects": ["secondary_capture"], "long_edge": 512},
            "broker": {"soft_time_limit": 20, "hard_time_limit": 30, "visibility_timeout": 40},
        }
        self.settings = settings(folder, ("pacs", "PACS", 11113), **made | sections)
        self.champion = make_bundle(folder / "configured", "1.0.0")
        self.ledger = Ledger(self.settings.node.database)
        self.ledger.create()
        self.spool = Spool(self.settings.node.spool, 0)
        self.now = at(30)

    def receive(self, *numbers: int, **changes) -> None:
        """One study each; `selected` and `reason` are of the tasks, other changes of the headers."""
        of_task = {name: changes.pop(name) for name in ("selected", "reason") if name in changes}
        for number in numbers:
            made = instance(1, study=f"{STUDIES}.{number}", path=self.settings.node.spool / f"{number}.dcm")
            made.path.write_bytes(picture(number, **changes))
            self.ledger.open_association(association())
            assert self.ledger.add_instance(made) == "added"
            self.ledger.close_association("a1", at(1))
            of = study(made)
            assert self.ledger.mark_ready(of, [task(of, f"t{number}", **of_task)], at(20))

    def explain(self, *numbers: int) -> None:
        worker = Worker(
            self.settings, self.ledger, self.spool, lambda: load(self.folder / "configured"), clock=lambda: self.now
        )
        for number in numbers:
            assert worker.run(f"t{number}")

    def deploy(self, version: str, threshold: float = 0.5, *, role: str = "challenger") -> str:
        aside = self.folder / version
        digest = make_bundle(aside, version, threshold)
        (self.folder / "models").mkdir(exist_ok=True)
        aside.rename(self.folder / "models" / digest)
        self.ledger.deploy(
            role, digest=digest, number=2, name="toy", version=version, by="test", reason="", now=self.now
        )
        return digest

    def limit(self, **broker: int) -> None:
        """Other limits for the shadow than for the worker before."""
        changed = self.settings.broker.model_copy(update=broker)
        self.settings = self.settings.model_copy(update={"broker": changed})

    def shadow(self, load_=load, **options) -> Shadow:
        return Shadow(self.settings, self.ledger, self.spool, load_, clock=lambda: self.now, **options)

    def watch(self, shade: Shadow | None = None) -> None:
        """Let the shadow work until it has nothing to do."""
        shade = shade or self.shadow()
        for _ in range(50):
            if not shade.step():
                return
        raise AssertionError("it never ends")

    def later(self) -> None:
        """Past the rest after an attempt that did not end."""
        self.now += timedelta(seconds=self.settings.broker.hard_time_limit + 1)

    def process(self) -> list[str]:
        """The command line of the shadow as a process."""
        (self.folder / "settings.json").write_text(self.settings.model_dump_json(by_alias=True))
        return [str(Path(__file__)), str(self.folder)]

    def kept(self, digest: str) -> set[str]:
        """Tasks whose objects of a challenger are kept."""
        root = self.settings.node.spool / "shadow" / digest
        return {one.name for one in root.iterdir()} if root.is_dir() else set()


def observed(assessments, first: int = 0, seconds: float = 0) -> list:
    """Observations of assessed images, one task for all, as the worker makes them."""
    of = task(study(instance(1)), "many")
    images = tuple(
        AssessedImage(
            source=SourceReference(
                study_instance_uid=STUDIES,
                series_instance_uid=STUDIES,
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
                sop_instance_uid=f"{STUDIES}.{number}",
            ),
            header=Dataset(),
            assessment=one,
        )
        for number, one in enumerate(assessments, first)
    )
    analysis = Analysis(task=of, header=Dataset(), model=None, assessed=images, state=StudyState.EXPLAINED, reason=None)
    return record.rows_of(of, analysis, role="champion", seconds=seconds, now=at(60 + first))


def main(folder: Path) -> None:
    made = Settings.model_validate(json.loads((folder / "settings.json").read_text()))

    def slow(bundle: Path):
        toy = load(bundle)

        def explain(radiograph, methods, assessment=None):
            (folder / "began").touch()
            while (folder / "hang").exists():
                time.sleep(0.01)
            return toy.explain(radiograph, methods, assessment)

        return Wrapped(toy, explain)

    ledger = Ledger(made.node.database)
    Shadow(made, ledger, Spool(made.node.spool, 0), slow).run(threading.Event())


class Wrapped:
    """A toy that explains in its own way."""

    def __init__(self, toy, explain) -> None:
        self.identity, self.classify, self.explain = toy.identity, toy.classify, explain


if __name__ == "__main__":
    main(Path(sys.argv[1]))
