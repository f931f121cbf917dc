"""One reader per source; every split is by patient, and bad input is named and counted.

A dataset is named on the command line as `reader:folder?option=value&option=value`, for example
`nih:../shared/data/nih_cxr14_subset`. A reader is a module of `readers` whose `PLUGIN` is a function
`read(folder: Path, *, option: str = ...) -> Dataset`; one that needs no folder gives `folder` a default, and an option
that names a file or a folder is a `Path | None`.
"""

import importlib
import inspect
from pathlib import Path

from explain_core import plugins
from training.datasets.collecting import format_problems
from training.datasets.samples import Dataset
from training.datasets.tables import DatasetError

READERS = "training.datasets.readers"


def read(spec: str) -> Dataset:
    """Read the dataset `reader:folder?option=value`.

    Raises:
        DatasetError: no such reader, folder or option, or the folder cannot be read; the message says which there are.
    """
    name, folder, options = _parts(spec)
    try:
        reader = plugins.load(READERS, name)
    except LookupError as error:
        raise DatasetError(f"--data {spec}: {error}; write it as reader:folder") from error
    parameters = inspect.signature(reader).parameters
    unknown = sorted(options.keys() - (parameters.keys() - {"folder"}))
    if unknown:
        known = ", ".join(sorted(parameters.keys() - {"folder"})) or "none"
        raise DatasetError(f"--data {spec}: no option {', '.join(unknown)} of reader {name}; there is: {known}")
    given = {option: Path(value) if option in _paths(name) else value for option, value in options.items() if value}
    if not folder and parameters["folder"].default is not inspect.Parameter.empty:
        dataset: Dataset = reader(**given)
        return dataset
    if not folder or not Path(folder).is_dir():
        raise DatasetError(f"--data {spec}: no folder {folder!r}; write it as reader:folder")
    dataset = reader(Path(folder), **given)
    if not dataset.samples:
        lines = "\n".join(format_problems(dataset.problems, limit=1))
        raise DatasetError(f"--data {spec}: no usable image\n{lines}".rstrip())
    return dataset


def absolute(spec: str, base: Path) -> str:
    """`spec` with its folder absolute, and options that name what exists beside `base`; relative ones are to `base`."""
    name, folder, options = _parts(spec)
    named = _paths(name)
    query = "&".join(
        f"{option}={(base / value).resolve() if option in named and (base / value).exists() else value}"
        for option, value in options.items()
    )
    place = f":{(base / folder).resolve()}" if folder else ""
    return f"{name}{place}{'?' if query else ''}{query}"


def places(spec: str) -> tuple[Path, ...]:
    """What a dataset is read from: its folder, and the files and folders that its options name."""
    name, folder, options = _parts(spec)
    named = _paths(name)
    return tuple(Path(value) for value in (folder, *(options[one] for one in options if one in named)) if value)


def _parts(spec: str) -> tuple[str, str, dict[str, str]]:
    """Reader, folder ("" for none) and options of `reader:folder?option=value`."""
    source, _, query = spec.partition("?")
    name, _, folder = source.partition(":")
    return name, folder, dict(item.partition("=")[::2] for item in query.split("&") if item)


def _paths(name: str) -> frozenset[str]:
    """The options of a reader that name a file or a folder; none of a reader that there is not."""
    try:
        parameters = inspect.signature(plugins.load(READERS, name)).parameters.values()
    except LookupError:
        return frozenset()
    return frozenset(one.name for one in parameters if one.annotation == Path | None)


def attribution(reader: str) -> str:
    """Licence and attribution of a reader's data, for the model card; "" where they are the site's own to state."""
    module = importlib.import_module(f"{READERS}.{reader}")
    return str(getattr(module, "ATTRIBUTION", ""))
