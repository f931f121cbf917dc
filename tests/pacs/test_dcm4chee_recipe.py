"""The recipe for dcm4chee-arc, which is not here to run it: its LDIF is well formed, and its rule is the right one."""

import base64
import re

import pytest

ROOT = "cn=Devices,cn=DICOM Configuration,dc=dcm4che,dc=org"
KNOWN = {
    "dicomDevice": {"dicomDeviceName", "dicomInstalled", "dicomManufacturer"},
    "dcmDevice": set(),
    "dicomNetworkConnection": {"cn", "dicomHostname", "dicomPort"},
    "dcmNetworkConnection": set(),
    "dicomNetworkAE": {
        *("dicomAETitle", "dicomAssociationAcceptor", "dicomAssociationInitiator", "dicomNetworkConnectionReference")
    },
    "dcmNetworkAE": set(),
    "dicomUniqueAETitle": {"dicomAETitle"},
    "dcmExporter": {"dcmExporterID", "dicomDescription", "dcmURI", "dicomAETitle", "dcmQueueName"},
    "dcmExportRule": {"cn", "dcmEntity", "dcmExporterID", "dcmDuration", "dcmProperty"},
    "dcmArchiveAttributeCoercion": {
        *("cn", "dcmDIMSE", "dicomTransferRole", "dcmRulePriority", "dcmProperty", "dcmMergeAttribute")
    },
}
"""What is used of the object classes of PS3.15 H and of dcm4chee-arc (docs/networking/config of its statement)."""


@pytest.fixture(scope="module")
def entries(root):
    """RFC 2849: records of `name: value`, separated by empty lines, comments between."""
    text = (root / "deploy" / "pacs" / "dcm4chee" / "explain.ldif").read_text()
    assert text.startswith("version: 1\n")
    body = re.sub(r"^(#.*|version: 1)\n", "", text.replace("\n ", ""), flags=re.MULTILINE)
    found = []
    for block in re.split(r"\n\s*\n", body.strip()):
        entry = {}
        for line in block.splitlines():
            name, separator, value = re.fullmatch(r"([A-Za-z0-9]+)(::?) ?(.*)", line).groups()
            entry.setdefault(name, []).append(base64.b64decode(value).decode() if separator == "::" else value)
        found.append(entry)
    return found


def test_every_entry_is_named_by_itself_and_has_known_attributes(entries):
    assert len(entries) == 7
    for entry in entries:
        assert next(iter(entry)) == "dn"
        (dn,) = entry["dn"]
        name, value = dn.split(",")[0].split("=", 1)
        assert entry[name] == [value], "the name is an attribute, too"
        assert set(entry["objectClass"]) <= set(KNOWN), dn
        assert set(entry) - {"dn", "objectClass"} <= set().union(*(KNOWN[one] for one in entry["objectClass"])), dn


def test_what_refers_to_something_refers_to_what_is_there(entries):
    names = {entry["dn"][0] for entry in entries}
    for entry in entries:
        for reference in entry.get("dicomNetworkConnectionReference", ()):
            assert reference in names
        parent = entry["dn"][0].split(",", 1)[1]
        assert parent in names or parent == ROOT or parent.startswith(("dicomDeviceName=dcm4chee-arc,", "cn=Unique AE"))
    (rule,) = (entry for entry in entries if "dcmExportRule" in entry["objectClass"])
    (exporter,) = (entry for entry in entries if "dcmExporter" in entry["objectClass"])
    assert rule["dcmExporterID"] == exporter["dcmExporterID"]
    assert exporter["dcmURI"] == ["dicom:EXPLAIN"]


def test_the_rule_takes_chest_radiographs_and_nothing_of_the_node(entries):
    (rule,) = (entry for entry in entries if "dcmExportRule" in entry["objectClass"])
    conditions = [re.fullmatch(r"(\w+)(!?)=(.*)", one).groups() for one in rule["dcmProperty"]]

    def taken(**image):
        return all((re.fullmatch(regex, image[name]) is None) == (no == "!") for name, no, regex in conditions)

    one = {"SendingApplicationEntityTitle": "MODALITY1", "Modality": "DX", "BodyPartExamined": "CHEST"}
    assert taken(**one)
    assert taken(**one | {"BodyPartExamined": "THORAX PA"})
    assert not taken(**one | {"BodyPartExamined": "HAND"})
    assert not taken(**one | {"Modality": "SR"})
    assert not taken(**one | {"SendingApplicationEntityTitle": "EXPLAIN"})
