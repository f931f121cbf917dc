"""One reader per source; every split is by patient, and bad input is named and counted.

A dataset is named on the command line as `reader:folder?option=value&option=value`, for example
`nih:../shared/data/nih_cxr14_subset`. A reader is a module of `readers` whose `PLUGIN` is a function
`read(folder: Path, *, option: str = ...) -> Dataset`; one that needs no folder gives `folder` a default.
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
    source, _, query = spec.partition("?")
    name, _, folder = source.partition(":")
    try:
        reader = plugins.load(READERS, name)
    except LookupError as error:
        raise DatasetError(f"--data {spec}: {error}; write it as reader:folder") from error
    parameters = inspect.signature(reader).parameters
    options = dict(item.partition("=")[::2] for item in query.split("&") if item)
    unknown = sorted(options.keys() - (parameters.keys() - {"folder"}))
    if unknown:
        known = ", ".join(parameters.keys() - {"folder"}) or "none"
        raise DatasetError(f"--data {spec}: no option {', '.join(unknown)} of reader {name}; there is: {known}")
    if not folder and parameters["folder"].default is not inspect.Parameter.empty:
        dataset: Dataset = reader(**options)
        return dataset
    if not folder or not Path(folder).is_dir():
        raise DatasetError(f"--data {spec}: no folder {folder!r}; write it as reader:folder")
    dataset = reader(Path(folder), **options)
    if not dataset.samples:
        lines = "\n".join(format_problems(dataset.problems, limit=1))
        raise DatasetError(f"--data {spec}: no usable image\n{lines}".rstrip())
    return dataset


def attribution(reader: str) -> str:
    """Licence and attribution of a reader's data, for the model card; "" where they are the site's own to state."""
    module = importlib.import_module(f"{READERS}.{reader}")
    return str(getattr(module, "ATTRIBUTION", ""))
