"""docs/backup.md: its commands, run in a folder in the place of /, bring a node back as it was when they copied it."""

import json
import re
import shutil
import subprocess
import sys

from working import STUDY, at, instance, study, task

from dicom_node.storage.ledger import Ledger

PROGRAM = "/opt/dicom-node/bin/dicom-node"


def here(line, root):
    """A command of the page, of this user, below `root`; "" for one to systemd."""
    if "systemctl" in line:
        return ""
    line = re.sub(r"sudo (-u dicom-node )?", "", line).replace("-o dicom-node -g dicom-node ", "")
    line = line.replace(PROGRAM, f"{sys.executable} -m dicom_node").replace("tar -C / ", f"tar -C {root} ")
    return re.sub(r"(?<=[ =])/(etc|var|srv)/", rf"{root}/\1/", line)


def test_what_was_copied_is_what_comes_back(root, tmp_path):
    copy, restore = re.findall(r"```sh\n(.*?)```", (root / "docs" / "backup.md").read_text(), re.DOTALL)
    data, etc = tmp_path / "var" / "lib" / "dicom-node", tmp_path / "etc" / "dicom-node"
    (data / "spool").mkdir(parents=True)
    etc.mkdir(parents=True)
    (data / "spool" / "image.dcm").write_bytes(b"an image")
    url = f"sqlite:///{data}/ledger.sqlite"
    (etc / "node.toml").write_text(f'[node]\nspool = "{data}/spool"\ndatabase = "{url}"\n')
    ledger = Ledger(url)
    ledger.create()
    ledger.add_instance(instance(1))
    one = study(instance(1))
    ledger.mark_ready(one, [task(one)], at(20))

    def run(text):
        for line in filter(None, (here(line.partition("#")[0].strip(), tmp_path) for line in text.splitlines())):
            subprocess.run(line, shell=True, check=True, cwd=data.parent)  # noqa: S602 - the page's own commands

    run(copy)  # the ledger is open, and a part of it is in its WAL
    ledger.add_quarantine("1.2", "1.3", tmp_path, "came later", at(30))
    ledger.close()
    (data / "spool" / "image.dcm").unlink()
    run(restore)
    assert (data / "spool" / "image.dcm").read_bytes() == b"an image"
    assert (data.parent / "dicom-node.before").is_dir()
    shutil.rmtree(data.parent / "dicom-node.before")
    command = [sys.executable, "-m", "dicom_node", "status", "--config", etc / "node.toml", "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert [one["study_instance_uid"] for one in told["studies"]] == [STUDY]
    assert told["counts"]["instances"]["quarantined"] == 0
