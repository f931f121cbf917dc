"""Shared by the tests of the audit: one of every message, the standard's grammar, trails to look at."""

import json
from datetime import UTC, datetime
from pathlib import Path

from lxml import etree

from dicom_node.watch.audit import Audit, Node
from dicom_node.watch.audit_trail import files
from dicom_node.watch.audit_transfers import Transferred

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
CR = "1.2.840.10008.5.1.4.1.1.1"
STUDY = "1.2.826.0.1.3680043.9.1"
GRAMMAR = Path(__file__).parent / "watch" / "audit_message.rng"
PEER = Node(ae_title="MODALITY", address="10.1.2.3")


def grammar():
    return etree.RelaxNG(etree.parse(GRAMMAR))


def everything(write, **how):
    """One of each event, told to `write`."""
    audit = Audit("listener", "EXPLAIN", write, clock=lambda: NOW, **how)
    audit.application(started=True)
    receiving = audit.receiving(PEER)
    receiving.done(STUDY, "P1", CR)
    receiving.failed(STUDY, "P1", CR, "Data set cannot be read")
    receiving.end()
    sending = audit.sending(Node(ae_title="PACS", address="pacs.example.org"))
    sending.plan(STUDY, "P1", CR)
    sending.begin()
    sending.done(STUDY, "P1", CR)
    sending.end()
    audit.node_rejected(PEER, "calling AE title not recognised")
    audit.software_changed("version 3 was promoted", "urn:x", {"Version": "3"}, by_person=True)
    audit.exported(Path("/srv/out"), [Transferred(study=STUDY, patient_id="P1", sop_classes={CR: 2})])
    audit.deleted(Transferred(study=STUDY, patient_id="P1", sop_classes={CR: 1}), "kept for 30 days")
    audit.login("doe", "10.1.2.4")
    audit.login("doe", "10.1.2.4", granted=False)
    audit.logout("doe", "10.1.2.4")
    audit.log_used(Path("/srv/audit"), "line 7 was changed")
    write(audit.gap(NOW, 3))
    audit.application(started=False, failure="ConfigError")


def all_messages(**how):
    made = []
    everything(made.extend, **how)
    return made


def lines(folder):
    """Every line of a trail as JSON, the oldest first; torn ones are left out."""
    found = []
    for path in files(Path(folder)):
        for raw in path.read_bytes().splitlines():
            try:
                found.append(json.loads(raw))
            except ValueError:
                continue
    return found


def events(folder):
    """What happened, in the standard's words."""
    return [said(one) for one in lines(folder)]


def said(message):
    event = message["EventIdentification"]
    kinds = [one["originalText"] for one in event.get("EventTypeCode", [])]
    return ": ".join([event["EventID"]["originalText"], *kinds])
