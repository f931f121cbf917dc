"""Containerfiles: what a linter says, who runs in them, and that light images hold no PyTorch."""

import importlib.metadata
import re
import tomllib

import pytest
from deployed import DEPLOY, ROOT, chain, names_a_registry, stages, tool
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dicom_node import app
from dicom_node.watch import pulse

FILES = sorted((DEPLOY / "containers").glob("*Containerfile"))
NODE = DEPLOY / "containers" / "Containerfile"
TARGETS = ("listener", "worker-cuda", "worker-cpu", "retraining")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("file", FILES, ids=lambda one: one.name)
def test_hadolint_has_nothing_to_say(file):
    done = tool("hadolint", "--failure-threshold", "style", file)
    assert done.returncode == 0, done.stdout


def test_hadolint_would_say_something(tmp_path):
    bad = tmp_path / "Containerfile"
    bad.write_text(NODE.read_text().replace("USER 10001:10001", "USER root").replace("python:${PYTHON}", "python"))
    done = tool("hadolint", "--failure-threshold", "style", bad)
    assert done.returncode == 1
    assert {"DL3002", "DL3006"} <= set(re.findall(r"DL\d+", done.stdout))


@pytest.mark.parametrize("file", FILES, ids=lambda one: one.name)
def test_images_are_named_without_a_registry(file):
    found = stages(file)
    images = {stage.image for stage in found.values()} - found.keys()
    assert images
    for image in images:
        assert not names_a_registry(image)
        assert ":" in image, "a version is named"
    assert names_a_registry("mirror.example.org/python:3.11"), "a name with a host is seen"


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_as_nobody_in_particular_and_says_how_it_is(target):
    said = chain(stages(NODE), target)
    last = {name: value for name, value in said if name in {"USER", "HEALTHCHECK", "ENTRYPOINT", "CMD", "WORKDIR"}}
    assert last["USER"] == "10001:10001"
    assert last["HEALTHCHECK"].endswith('CMD ["python", "-m", "dicom_node.watch.pulse"]')
    assert last["ENTRYPOINT"] == '["dicom-node"]'
    assert "ADD" not in {name for name, _ in said}
    environment = " ".join(value for name, value in said if name == "ENV")
    assert re.search(rf"{pulse.VARIABLE}=/tmp/\S+", environment), "the root file system may be read-only"
    users = [index for index, (name, _) in enumerate(said) if name == "USER"]
    assert not [value for name, value in said[users[0] :] if name == "RUN"], "nothing is made as that user"


def test_versions_are_the_projects():
    label = next(value for name, value in chain(stages(NODE), "listener") if name == "LABEL")
    assert f'image.version="{PROJECT["version"]}"' in label


def closure(requirements, extras):
    """Names of all distributions that these requirements bring here."""
    found, todo = set(), [(Requirement(one), frozenset(extras)) for one in requirements]
    seen = set()
    while todo:
        requirement, asked = todo.pop()
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in (asked or {""})):
            continue
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        if name == PROJECT["name"]:
            todo += [(Requirement(one), frozenset()) for extra in requirement.extras
                     for one in PROJECT["optional-dependencies"][extra]]  # fmt: skip
            continue
        found.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        todo += [(Requirement(one), frozenset(requirement.extras)) for one in needed]
    return found


def installed(target):
    """The distributions that a build stage installs, by what its pip is told and what they need."""
    text = " ".join(value for name, value in chain(stages(NODE), target) if name == "RUN")
    (extras,) = {tuple(one.split(",")) for one in re.findall(r'"\.\[([\w,]+)\]"', text)}
    wanted = [f"{PROJECT['name']}[{','.join(extras)}]", *PROJECT["dependencies"]]
    return closure(wanted, ())


def test_the_light_image_holds_no_pytorch_and_all_that_its_roles_import():
    light = installed("build-listener")
    assert not {name for name in light if name.startswith(("torch", "nvidia", "cuda"))}
    assert {"psycopg", "prometheus-client", "starlette", "mlflow-skinny", "pynetdicom"} <= light


@pytest.mark.parametrize("target", ["build-worker-cuda", "build-worker-cpu"])
def test_a_workers_image_holds_pytorch_and_postgresql(target):
    assert {"torch", "torchvision", "safetensors", "psycopg"} <= installed(target)


def test_every_build_is_pinned():
    for target in TARGETS:
        runs = " ".join(value for name, value in chain(stages(NODE), f"build-{target}") if name == "RUN")
        for call in re.findall(r"pip (?:--python \S+ )?install ([^;]+?)(?= pip |$|;)", runs):
            assert "--constraint constraints.txt" in call or "--no-deps" in call, call


def test_the_ignore_file_lets_in_what_is_copied_and_nothing_else():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert rules[0] == "*"
    copied = set()
    for file in FILES:
        for stage in stages(file).values():
            for value in stage.values("COPY"):
                if not value.startswith("--from"):
                    copied |= set(value.split()[:-1])
    assert copied == let_in
    assert all((ROOT / one).exists() for one in copied)
    assert not (ROOT / ".containerignore").exists(), "podman would read it in place of the other"


def test_each_target_has_a_role_to_run():
    found = stages(NODE)
    assert found["listener"].values("CMD") == ['["serve"]']
    for target in ("worker-cuda", "worker-cpu"):
        assert found[target].values("CMD") == ['["serve", "--only", "worker"]']
    assert "worker" in app.ROLES
