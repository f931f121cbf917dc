"""Orthanc as docs/pacs/orthanc.md sets it up: the files of deploy/pacs/orthanc, with other ports and times."""

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

from pydicom.uid import generate_uid
from receiving import needs
from whole_node import changed

from dicom_node.demo.run import sample
from dicom_node.demo.servers import Orthanc

RECIPE = Path(__file__).parents[2] / "deploy" / "pacs" / "orthanc"
STABLE_SECONDS = 1


def with_values(text, **values):
    """A settings file with other values; each key must be there, once."""
    for key, value in values.items():
        text, found = re.subn(rf'("?{key}"? *[=:] *)[^,\n#]+?( *[,#\n])', rf"\g<1>{json.dumps(value)}\g<2>", text)
        assert found == 1, f"{key}: {found} times"
    return text


class RecipeOrthanc(Orthanc):
    """Orthanc with the recipe.

    Args:
        folder: its storage, its configuration and its log.
        node_port: where the node listens.
        dicomweb: with the DICOMweb plugin, too.
    """

    def __init__(self, folder, node_port, *, dicomweb=False):
        super().__init__(folder, {})
        self._node_port, self._dicomweb = node_port, dicomweb

    def _configured(self):
        conf = self._folder / "conf"
        conf.mkdir(exist_ok=True)
        shipped = (RECIPE / "explain.json").read_text()
        shipped, found = re.subn(r'("Port" : )11112', rf"\g<1>{self._node_port}", shipped)
        assert found == 1
        (conf / "explain.json").write_text(with_values(shipped, StableAge=STABLE_SECONDS))
        shutil.copy(RECIPE / "explain.lua", conf)
        if self._dicomweb:
            shutil.copy(RECIPE / "dicomweb.json", conf)
        base = {
            "StorageDirectory": str(self._folder / "storage"),
            "IndexDirectory": str(self._folder / "index"),
            "HttpPort": self.http_port,
            "DicomPort": self.port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "ExecuteLuaEnabled": True,
        }
        (conf / "orthanc.json").write_text(json.dumps(base))
        return conf

    def ask(self, path):
        return json.loads(self.get(path))

    def run_lua(self, script):
        """What a script prints."""
        url = f"http://127.0.0.1:{self.http_port}/tools/execute-script"
        with urllib.request.urlopen(url, data=script.encode(), timeout=20) as answer:
            return answer.read().decode().rstrip("\n")

    def study(self, uid):
        """What Orthanc knows of a study, by its Study Instance UID; None before it is there."""
        return next(
            (one for one in self.ask("/studies?expand") if one["MainDicomTags"]["StudyInstanceUID"] == uid), None
        )

    def series(self, uid):
        """The main tags of a study's series."""
        found = self.study(uid)
        return [] if found is None else [one["MainDicomTags"] for one in self.ask(f"/studies/{found['ID']}/series")]

    def transfers(self):
        """Jobs that send to the node: the images of each, oldest first."""
        jobs = [one for one in self.ask("/jobs?expand") if one["Type"] == "DicomModalityStore"]
        return [one["Content"]["ParentResources"] for one in sorted(jobs, key=lambda one: one["CreationTime"])]

    def transfer_states(self):
        return sorted(one["State"] for one in self.ask("/jobs?expand") if one["Type"] == "DicomModalityStore")

    def is_stable_again(self, uid):
        """Whether the last thing that happened to a study is that it became stable."""
        study = self.study(uid)
        instances = {one["ID"] for one in self.ask(f"/studies/{study['ID']}/instances")}
        changes = self.ask("/changes?limit=10000")["Changes"]
        last = max(one["Seq"] for one in changes if one["ID"] in instances and one["ChangeType"] == "NewInstance")
        return any(
            one["Seq"] > last for one in changes if one["ID"] == study["ID"] and one["ChangeType"] == "StableStudy"
        )


def picture(folder, name, **attributes):
    """The sample radiograph as another image of another study; its path and its Study Instance UID."""
    new = {keyword: generate_uid() for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")}
    made = new | attributes
    return changed(sample(), folder / f"{name}.dcm", made), made["StudyInstanceUID"]


def storescu(orthanc, *paths, title="MODALITY1"):
    """C-STORE as a modality does it, with dcmtk."""
    command = [needs("storescu"), "-aet", title, "-aec", "ORTHANC", "127.0.0.1", str(orthanc.port), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
