"""docs/deploy.md: what its commands name is there."""

import re
import shlex
from itertools import pairwise

from deployed import DEPLOY, ROOT, stages
from test_compose import SERVICES
from typer.main import get_command

from dicom_node.cli import app

PAGE = (ROOT / "docs" / "deploy.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if shlex.split(line, comments=True)
]
UNITS = {path.name for path in (DEPLOY / "systemd").iterdir()}


def after(words, *names):
    """What stands behind one of these words."""
    return [value for word, value in pairwise(words) if word in names]


def test_files_are_there():
    named = {word for words in COMMANDS for word in words if word.startswith("deploy/")}
    named |= set(re.findall(r"`(deploy/[\w./-]+)`", PAGE))
    assert len(named) > 5
    made = {one for one in named if one.startswith("deploy/compose/secrets/")}
    assert [one for one in named - made if not (ROOT / one).exists()] == []


def test_options_of_the_installer_are_known():
    text = (DEPLOY / "install.sh").read_text()
    used = {word for words in COMMANDS if "deploy/install.sh" in words for word in words if word.startswith("--")}
    used |= set(re.findall(r"^\| `(--[\w-]+)", PAGE, flags=re.MULTILINE))
    assert {"--dry-run", "--uninstall", "--workers"} <= used
    assert [one for one in used if f"        {one}" not in text and f"| {one}" not in text] == []


def test_targets_units_and_services_are_there():
    targets = {value for words in COMMANDS for value in after(words, "--target")}
    assert targets <= stages(DEPLOY / "containers" / "Containerfile").keys()
    assert len(targets) == 4
    units = {
        word for words in COMMANDS if "systemctl" in words for word in words if re.search(r"\.(service|target)$", word)
    }
    units |= set(re.findall(r"^\| `(dicom-node[\w@.-]*)`", PAGE, flags=re.MULTILINE))
    templates = {re.sub(r"@[^.]*", "@", one) for one in units if "*" not in one}
    assert templates <= UNITS
    assert {one for one in UNITS if one.endswith(".service")} <= templates, "each is on the page"
    scaled = {value.split("=")[0] for words in COMMANDS for value in after(words, "--scale")}
    scaled |= set(re.findall(r"--scale (\w+)=", PAGE))
    assert scaled | {value for words in COMMANDS for value in after(words, "--rm")} <= SERVICES.keys()


def test_commands_of_the_node_are_known():
    known = get_command(app).commands
    used = {value for words in COMMANDS for value in after(words, "admin", "dicom-node")} - {"dicom-node"}
    used = {one for one in used if not one.startswith(("-", "/"))}
    assert {"doctor", "status"} <= used
    assert used <= known.keys()


def test_the_page_on_installing_leads_here():
    assert "(deploy.md)" in (ROOT / "docs" / "install.md").read_text()
