"""The files of a model bundle and their checksums; nothing here loads PyTorch."""

import hashlib
import json
import tomllib
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from explain_core.errors import BundleError

SUMS = "SHA256SUMS"
WEIGHTS = "classifier.safetensors"
CLASSIFIERS = (WEIGHTS, "classifier.onnx", "classifier.pt", "classifier.joint.safetensors")
OUTLIER = "outlier.safetensors"
GENERATORS = "generators.safetensors"
SECOND = "second.safetensors"
ATTRIBUTES = "attributes.safetensors"
REQUIRED = ("bundle.toml", "model_card.md")


def digest_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(folder: Path) -> str:
    """Check every file of the bundle against SHA256SUMS and return the bundle's digest.

    Raises:
        BundleError: a file is missing, unlisted or changed, or there is not one classifier; the message says which.
    """
    sums = folder / SUMS
    if not sums.is_file():
        raise BundleError(f"{folder} is no model bundle: {SUMS} is missing")
    names = listed(sums)
    for name in REQUIRED:
        if name not in names:
            raise BundleError(f"{sums} does not list {name}")
    if len(names.keys() & set(CLASSIFIERS)) != 1:
        raise BundleError(f"{sums} must list one of {', '.join(CLASSIFIERS)}")
    for path in folder.glob("classifier.*"):
        if path.name not in names:
            raise BundleError(f"{path} is not listed in {SUMS}; remove it")
    for name, checksum in names.items():
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name} is missing; copy the whole bundle again")
        if digest_of(folder / name) != checksum:
            raise BundleError(f"{folder / name} does not match its checksum in {SUMS}; copy the whole bundle again")
    return digest_of(sums)


def listed(sums: Path) -> dict[str, str]:
    """Checksums by file name.

    Raises:
        BundleError: a line cannot be read.
    """
    checksums: dict[str, str] = {}
    for line in sums.read_text(errors="backslashreplace").splitlines():
        checksum, separator, name = line.partition("  ")
        if not separator or Path(name).name != name:
            raise BundleError(f"{sums}: cannot read the line {line!r}")
        checksums[name] = checksum
    return checksums


def need_scales(methods: Iterable[str], tables: Container[str]) -> None:
    """Refuse the first of `methods` that a bundle has no table [heatmap.METHOD] for.

    Raises:
        BundleError: the message names the method and the command that makes the table.
    """
    for name in methods:
        if name not in tables:
            raise BundleError(
                f"the method {name} has no scale in this bundle; measure one on validation images with "
                f"`python -m training scale BUNDLE --method {name} --data READER:FOLDER`"
            )


def scaled_methods(folder: Path) -> tuple[str, ...]:
    """The methods that the bundle in `folder` has a scale for, as its description says; no checksum is looked at.

    Raises:
        BundleError: there is no description that can be read.
    """
    path = folder / "bundle.toml"
    try:
        tables = tomllib.loads(path.read_text()).get("heatmap", {})
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    return tuple(name for name, table in tables.items() if isinstance(table, Mapping))


def toml_text(table: Mapping[str, Any], prefix: str = "") -> str:
    """A TOML document of strings, numbers, lists and nested tables."""
    values = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, Mapping)]
    tables = [
        f"\n[{prefix}{key}]\n{toml_text(value, f'{prefix}{key}.')}"
        for key, value in table.items()
        if isinstance(value, Mapping)
    ]
    return "\n".join([*values, *tables]) + "\n"


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over every other file of the bundle."""
    names = sorted(path.name for path in folder.iterdir() if path.name != SUMS)
    for name in names:
        (folder / name).chmod(0o644)  # safetensors writes for its owner alone
    (folder / SUMS).write_text("".join(f"{digest_of(folder / name)}  {name}\n" for name in names))
