"""Shared by the tests of the export: a node that has received images, and what is to be found in a folder."""

import hashlib
import json
from datetime import UTC, datetime

from pydicom.uid import ExplicitVRLittleEndian
from radiographs import synthetic
from toy_explainer import ToyExplainer
from typer.testing import CliRunner
from working import settings, task

from dicom_node.cli import app
from dicom_node.explain.worker import Worker
from dicom_node.learn.export import Wishes, export
from dicom_node.nouns import AETitle, Association, Instance, SeriesInstanceUID, SOPInstanceUID, StudyInstanceUID
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.spool import Spool

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ROOT = "1.2.826.0.1.3680043.9.77"


def film(number, *, study=None, **changes):
    """A synthetic chest film of its own patient and study, 200 x 240 pixels; `changes` replace elements."""
    study = study or f"{ROOT}.{number}"
    return synthetic(
        StudyInstanceUID=study,
        SeriesInstanceUID=f"{study}.1",
        SOPInstanceUID=f"{study}.1.{number}",
        **{"AccessionNumber": f"00{number}77", "PatientID": f"CANARY{number}", "PatientAge": "061Y"} | changes,
    )


class Node:
    """A spool and a ledger with instances, as the listener leaves them; without any server."""

    def __init__(self, folder):
        self.folder = folder
        self.settings = settings(folder, ("pacs", "PACS", 11113), export={"key": folder / "export.key"})
        self.ledger = Ledger(self.settings.node.database)
        self.ledger.create()
        self.spool = Spool(self.settings.node.spool, 0)

    def receive(self, *datasets, at=NOW):
        for ds in datasets:
            part = self.spool.new_part()
            ds.save_as(part, enforce_file_format=True)
            digest = hashlib.sha256(part.read_bytes()).hexdigest()
            path = self.spool.adopt(part, str(ds.StudyInstanceUID), str(ds.SOPInstanceUID), digest)
            self.ledger.open_association(
                Association(
                    association_id="a",
                    calling_ae_title=AETitle("MODALITY"),
                    called_ae_title=AETitle("EXPLAIN"),
                    peer_address="127.0.0.1",
                    opened_at=at,
                )
            )
            added = self.ledger.add_instance(
                Instance(
                    sop_instance_uid=SOPInstanceUID(str(ds.SOPInstanceUID)),
                    sop_class_uid=str(ds.SOPClassUID),
                    series_instance_uid=SeriesInstanceUID(str(ds.SeriesInstanceUID)),
                    study_instance_uid=StudyInstanceUID(str(ds.StudyInstanceUID)),
                    transfer_syntax_uid=str(ExplicitVRLittleEndian),
                    association_id="a",
                    calling_ae_title=AETitle("MODALITY"),
                    path=path,
                    sha256=f"{path.stat().st_size:064x}",
                    size=path.stat().st_size,
                    received_at=at,
                )
            )
            assert added == "added"
        return self

    def answer(self, study, revision=1, **model):
        """Explain the coming revision of a study by the toy model, as a worker does: the results are in the outbox."""
        seen = self.ledger.study(study, revision)
        done = f"{study}-{revision}-{len(model)}"
        assert self.ledger.mark_ready(seen, [task(seen, done, route="chest-frontal", created_at=NOW)], NOW)
        worker = Worker(self.settings, self.ledger, self.spool, lambda: ToyExplainer(**model), clock=lambda: NOW)
        worker.run(done)
        return self

    def export(self, out="out", *, labels=None, **wishes):
        """Export into `out`; `labels` is the text of the table."""
        if labels is not None:
            wishes["labels"] = self.folder / "labels.csv"
            wishes["labels"].write_text(labels)
        progress = lambda *_: None  # noqa: E731
        return export(self.settings, self.ledger, self.folder / out, Wishes(**wishes), now=NOW, progress=progress)

    def run(self, *arguments, expect=0):
        """The command line, with this node's settings."""
        node = self.settings.node
        config = self.folder / "node.toml"
        key = self.settings.export.key
        config.write_text(
            f'[node]\nspool = "{node.spool}"\ndatabase = "{node.database}"\n[export]\nkey = "{key}"\n'
            f'[audit]\nfolder = "{self.settings.audit.folder}"\n'
        )
        done = CliRunner().invoke(app, [*map(str, arguments), "--config", str(config)])
        assert done.exit_code == expect, done.output
        return done


def bytes_of(folder):
    """Every file's bytes and name, together."""
    return b"\n".join(
        path.relative_to(folder).as_posix().encode() + b"\n" + path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())
