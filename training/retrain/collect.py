"""Every image decoded once onto the champion's grid, with a manifest that says what it is and where it came from.

Written to the folder of the stage:

    champion/       a copy of the champion's bundle, verified
    images.npy      uint8, 0 to 255, shape (N, 1, S, S); a row of zeros where an image could not be decoded
    truths.npy      the marked lesions, packed bits, uint8, shape (N, ceil(S * S / 8))
    manifest.csv    one row per usable image, `COLUMNS`
    manifest.json   counts, classes, a hash of manifest.csv and truths.npy, and every problem of the sources
"""

import csv
import hashlib
import io
import json
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from explain_core.bundles.files import SUMS, digest_of, verify
from explain_core.files import write, write_json
from explain_core.geometry import InputSpec
from training import datasets
from training.datasets import loading, masks, tables
from training.datasets.samples import Dataset, Sample
from training.datasets.tables import Problem
from training.errors import TrainingError
from training.progress import Progress
from training.retrain.job import REGISTRY, Job, patient_prefix, source_name, source_spec

CHUNK = 64
COLUMNS = (
    "row", "source", "name", "patient", "split", "target", "target_source", "view", "sex", "age", "boxes", "rows",
    "columns", "sha256",
)  # fmt: skip


def fetch_champion(job: Job, folder: Path) -> str:
    """Copy the champion's bundle to `folder`/champion and return its digest.

    Raises:
        BundleError: it is damaged.
        RegistryError: the registry has no champion, or does not answer (RegistryUnreachable).
        TrainingError: there is none.
    """
    target = folder / "champion"
    shutil.rmtree(target, ignore_errors=True)
    if job.champion.bundle != REGISTRY:
        verify(Path(job.champion.bundle))
        shutil.copytree(job.champion.bundle, target)
        return verify(target)
    registry = open_registry(job)
    champion = registry.by_alias("champion")
    if champion is None:
        raise TrainingError(
            f"the registry {job.registry.name} has no champion; name a bundle's folder as [champion] bundle"
        )
    store = folder / "fetched"
    registry.fetch(champion.number, store).rename(target)
    shutil.rmtree(store)
    return verify(target)


def champion_digest(job: Job) -> str:
    """Digest of what is the champion now; "" where there is none, which `fetch_champion` then says.

    Raises:
        RegistryUnreachable: the registry does not answer.
    """
    if job.champion.bundle != REGISTRY:
        sums = Path(job.champion.bundle) / SUMS
        return digest_of(sums) if sums.is_file() else ""
    champion = open_registry(job).by_alias("champion")
    return "" if champion is None else str(champion.digest)


def open_registry(job: Job) -> Any:
    """The registry of the job; nothing connects yet."""
    from explain_core.bundles.registry import Registry  # noqa: PLC0415 - only where it is used

    return Registry(job.registry.uri, job.registry.name, Path(job.registry.artifacts))


def input_spec(job: Job, folder: Path) -> InputSpec:
    """The grid: the champion's, or its percentiles on a grid of the size that the job asks for."""
    table = tomllib.loads((folder / "champion" / "bundle.toml").read_text())["input"]
    return InputSpec(size=job.data.size or table["size"], percentiles=tuple(table["percentiles"]))


def sources_state(job: Job) -> str:
    """A hash of the names, sizes and times of all files of the sources: it tells when they must be read again."""
    digest = hashlib.sha256()
    for source in job.data.sources:
        spec = source_spec(source)
        digest.update(f"{spec}\0".encode())
        for place in datasets.places(spec):
            for path in (place, *sorted(place.rglob("*"))):
                if path.is_file():
                    status = path.stat()
                    digest.update(f"{path.relative_to(place)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def collect(job: Job, folder: Path, progress: Progress) -> dict[str, Any]:
    """Read the sources and write the files above; what was there is replaced.

    Returns:
        The content of manifest.json without its problems.

    Raises:
        DatasetError: a source cannot be read.
        TrainingError: the sources' classes differ, or nothing is left.
        OSError: the disk is full.
    """
    champion = fetch_champion(job, folder)
    spec = input_spec(job, folder)
    found = [(source_name(source), datasets.read(source_spec(source))) for source in job.data.sources]
    classes = _classes(job, found)
    total = sum(len(dataset) for _, dataset in found)
    prefixes = {source_name(source): patient_prefix(source) for source in job.data.sources}
    ready_made = {name: dataset.ready_made for name, dataset in found}
    rows: list[list[Any]] = []
    problems = [(name, problem) for name, dataset in found for problem in dataset.problems]
    with (
        _array(folder / "images.npy", (total, 1, spec.size, spec.size)) as images,
        _array(folder / "truths.npy", (total, -(-spec.size * spec.size // 8))) as truths,
    ):
        for name, sample, plane, sha256 in _decoded(found, spec, problems):
            index = images.written
            images.write(plane)
            truth = masks.truth_mask(sample, spec.size) if plane is not None else None
            truths.write(None if truth is None else np.packbits(truth))
            if plane is not None:
                split = sample.split if ready_made[name] else ""
                rows.append([index, name, *_cells(sample, prefixes[name], split), sha256])
            if (index + 1) % CHUNK == 0 or index + 1 == total:
                progress((index + 1) / total, images=index + 1)
    if not rows:
        raise TrainingError("no image can be used; see manifest.json for what is wrong with each")
    _write_manifest(folder, rows)
    summary = {
        "images": len(rows),
        "patients": len({row[3] for row in rows}),
        "read": total,
        "size": spec.size,
        "percentiles": list(spec.percentiles),
        "classes": list(classes),
        "data_sha256": _sha256_of(folder / "manifest.csv", folder / "truths.npy"),
        "champion": champion,
    }
    listed = [
        {"source": name, "kind": one.kind.name, "where": one.where, "detail": one.detail} for name, one in problems
    ]
    write_json(folder / "manifest.json", summary | {"problems": listed})
    return summary


def _classes(job: Job, found: Sequence[tuple[str, Dataset]]) -> tuple[str, ...]:
    """The two classes that all sources have.

    Raises:
        TrainingError: they have others.
    """
    for name, dataset in found:
        if len(dataset.classes) != 2 or dataset.exclusive:  # noqa: PLR2004 - absence and presence of one finding
            raise TrainingError(f"{name}: a bundle tells one finding; the classes are {', '.join(dataset.classes)}")
        if dataset.classes != found[0][1].classes and job.data.classes is None:
            raise TrainingError(
                f"{name} has the classes {', '.join(dataset.classes)} and {found[0][0]} has "
                f"{', '.join(found[0][1].classes)}; where they mean the same, name them as [data] classes"
            )
    return job.data.classes or found[0][1].classes


def _decoded(
    found: Sequence[tuple[str, Dataset]], spec: InputSpec, problems: list[tuple[str, Problem]]
) -> Iterator[tuple[str, Sample, NDArray[np.uint8] | None, str]]:
    """Source, sample, image of shape (1, S, S) and SHA-256 of the file; None and "" where it cannot be decoded."""
    for name, dataset in found:
        for start in range(0, len(dataset), CHUNK):
            part = replace(dataset, samples=dataset.samples[start : start + CHUNK], problems=())
            usable, images = loading.load_all(part, spec)
            problems += [(name, problem) for problem in usable.problems]
            with ThreadPoolExecutor(4) as pool:
                hashes = list(pool.map(_sha256, usable.samples, images))
            decoded = {id(sample): index for index, sample in enumerate(usable.samples)}
            for sample in part.samples:
                index = decoded.get(id(sample))
                plane = None if index is None else images[index].numpy()
                yield name, sample, plane, "" if index is None else hashes[index]


def _sha256_of(*paths: Path) -> str:
    """Of the hashes of files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _sha256(sample: Sample, image: Tensor) -> str:
    """Of the file; of the decoded image where there is none."""
    if sample.pixels is not None:
        return hashlib.sha256(image.numpy().tobytes()).hexdigest()
    with sample.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cells(sample: Sample, prefix: str, split: str) -> list[Any]:
    rows, columns = sample.shape or (0, 0)
    return [
        sample.path.name,
        f"{prefix}/{sample.patient_id}",
        split,
        "" if sample.target is None else sample.target,
        sample.target_source,
        sample.view,
        sample.sex,
        "" if sample.age is None else f"{sample.age:g}",
        len(sample.boxes),
        rows,
        columns,
    ]


def _write_manifest(folder: Path, rows: Sequence[Sequence[Any]]) -> None:
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write(folder / "manifest.csv", table.getvalue())


class _array:  # noqa: N801 - reads as what it is: with _array(...)
    """A .npy of uint8 that is written row by row: writing fails on a full disk, where a memory map would kill."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._path, self._shape, self.written = path, shape, 0

    def __enter__(self) -> Self:
        self._file: IO[bytes] = self._path.open("wb")
        header = {"descr": "|u1", "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, row: NDArray[np.uint8] | None) -> None:
        """Add a row; None adds zeros."""
        size = int(np.prod(self._shape[1:]))
        self._file.write(bytes(size) if row is None else np.ascontiguousarray(row).tobytes())
        self.written += 1


def manifest(folder: Path) -> list[dict[str, str]]:
    """The rows of manifest.csv."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def problems_of(folder: Path) -> list[tuple[str, Problem]]:
    """Source and problem, as collected."""
    listed = json.loads((folder / "manifest.json").read_text())["problems"]
    return [(one["source"], Problem(tables.Kind[one["kind"]], one["where"], one["detail"])) for one in listed]
