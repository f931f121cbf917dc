"""systemd units: what systemd itself says of them, how much a role may do, and how long it may be silent."""

import configparser
import shutil
import subprocess

import pytest
from deployed import DEPLOY

from dicom_node import app
from dicom_node.settings.sections import Settings
from dicom_node.watch import pulse

UNITS = DEPLOY / "systemd"
RUN = {
    **{role: f"dicom-node@{role}.service" for role in app.SERVE},
    "worker": "dicom-node-worker@0.service",
    "shadow": "dicom-node-shadow.service",
}
EVERY = [*RUN.values(), "dicom-node-retraining.service"]
MOST_EXPOSED = {"dicom-node@": 1.3}
"""Of 10, by `systemd-analyze security`; what loads PyTorch needs the GPU and makes code in memory."""
OTHERS_EXPOSED = 1.5

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def unit(name):
    """Sections and keys; of a key that stands more than once the last."""
    parsed = configparser.RawConfigParser(strict=False, delimiters="=", comment_prefixes="#")
    parsed.optionxform = str
    base, _, instance = name.partition("@")
    parsed.read(UNITS / (f"{base}@.service" if instance else name))
    return parsed


def test_every_role_has_a_unit():
    assert RUN.keys() == app.ROLES.keys()
    for role, name in RUN.items():
        command = unit(name)["Service"]["ExecStart"].replace("%i", role)
        assert command == f"/opt/dicom-node/bin/dicom-node serve --only {role}"


@pytest.mark.parametrize("name", EVERY)
def test_a_unit_hears_the_process_and_gives_it_time(name):
    service = unit(name)["Service"]
    assert (service["Type"], service["NotifyAccess"], service["Restart"]) == ("notify", "main", "always")
    assert int(service["WatchdogSec"]) == pulse.LONGEST_SECONDS
    if name in {RUN["worker"], RUN["shadow"]}:
        assert int(service["TimeoutStopSec"]) > Settings().broker.hard_time_limit
    assert unit(name)["Unit"]["PartOf"] == unit(name)["Install"]["WantedBy"] == "dicom-node.target"


@pytest.fixture
def placed(tmp_path):
    """A root with the units where an installation puts them."""
    root = tmp_path / "root"
    shutil.copytree(UNITS, root / "etc" / "systemd" / "system")
    return root


def exposed(root, name, most):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--root={root}", f"--threshold={most * 10:.0f}", name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode == 0, done.stdout


@pytest.mark.external
@needs_systemd
@pytest.mark.parametrize("name", [RUN["listener"], RUN["worker"], RUN["shadow"], "dicom-node-retraining.service"])
def test_a_unit_is_not_exposed(name, placed):
    most = next((value for begin, value in MOST_EXPOSED.items() if name.startswith(begin)), OTHERS_EXPOSED)
    good, said = exposed(placed, name, most)
    assert good, said
    assert "Overall exposure level" in said


@pytest.mark.external
@needs_systemd
def test_a_unit_without_its_sandbox_is_exposed(placed):
    shutil.rmtree(placed / "etc" / "systemd" / "system" / "dicom-node-.service.d")
    good, _ = exposed(placed, RUN["worker"], OTHERS_EXPOSED)
    assert not good


def verified(folder, *names):
    """What systemd says of units in a folder."""
    done = subprocess.run(
        ["systemd-analyze", "verify", *names],
        env={"SYSTEMD_UNIT_PATH": f"{folder}:", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "dicom-node" in line]
    return "\n".join(ours)


@pytest.mark.external
@needs_systemd
def test_systemd_understands_every_unit(placed):
    folder = placed / "etc" / "systemd" / "system"
    for path in folder.rglob("*.service"):
        path.write_text(path.read_text().replace("/opt/dicom-node/bin/dicom-node", "/bin/true"))
    assert verified(folder, *EVERY, "dicom-node.target", "dicom-node.slice") == ""
    path = folder / "dicom-node@.service"
    path.write_text(path.read_text().replace("WatchdogSec", "WatchdgoSec"))
    assert "WatchdgoSec" in verified(folder, RUN["web"])


@pytest.mark.external
@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_the_user_is_made(tmp_path):
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", UNITS / "dicom-node.sysusers"], check=True)
    line = next(one for one in (tmp_path / "etc" / "passwd").read_text().splitlines() if one.startswith("dicom-node:"))
    assert line.split(":")[5:] == ["/var/lib/dicom-node", "/usr/sbin/nologin"]
