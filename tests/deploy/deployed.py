"""What several tests of deploy/ look with: names of images, programs of `dev`, Containerfiles as stages."""

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from dicom_node.settings.sections import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def tool(name, *arguments, **options):
    """A program that the extra `dev` installs."""
    command = [Path(sys.executable).with_name(name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def names_a_registry(image):
    """Whether an image's name begins with a host, and so is bound to one registry."""
    first, slash, _ = image.partition("/")
    return bool(slash) and ("." in first or ":" in first or first == "localhost")


@dataclass
class Stage:
    """One stage of a Containerfile."""

    image: str
    instructions: list = field(default_factory=list)

    def values(self, name):
        return [value for instruction, value in self.instructions if instruction == name]


def kept(settings):
    """What the node writes, by the name of its key: every path that is below the working directory by default."""
    for name, section in Settings():
        for key, default in section if isinstance(section, BaseModel) else ():
            if isinstance(default, Path) and not default.is_absolute():
                yield f"{name}.{key}", getattr(getattr(settings, name), key)


def stages(path):
    """The stages of a Containerfile by their names; the last one without a name is ""."""
    found, arguments = {}, {}
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        name, _, value = line.strip().partition(" ")
        if name == "ARG" and not found:
            key, _, default = value.partition("=")
            arguments[key] = default
        elif name == "FROM":
            image, _, alias = value.partition(" AS ")
            for key, default in arguments.items():
                image = image.replace(f"${{{key}}}", default)
            found[alias] = stage = Stage(image)
        elif name:
            stage.instructions.append((name, value))
    return found


def chain(found, target):
    """The instructions of a target and of the stages that it goes on from, the oldest first."""
    stage = found[target]
    return [*(chain(found, stage.image) if stage.image in found else []), *stage.instructions]
