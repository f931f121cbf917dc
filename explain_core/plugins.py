"""The folder is the registry: a plug-in is a module of a package that defines `PLUGIN`.

A site adds its own without touching the package: `add_folder` lets a package look into one more folder.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from explain_core.errors import UnknownName

METHODS = "explain_core.methods"
"""The package of explanation methods."""


def available(package: str) -> tuple[str, ...]:
    """Names of the plug-in modules in `package`, sorted; nothing is imported but the package itself."""
    folder = importlib.import_module(package)
    names = {module.name for module in pkgutil.iter_modules(folder.__path__)}
    return tuple(sorted(name for name in names if not name.startswith("_")))


def add_folder(package: str, folder: Path) -> None:
    """Let `package` look for modules in `folder` too, for as long as the process runs; adding it again does nothing.

    The files are imported when they are loaded by name, so the folder must be as hard to write to as the package's.

    Args:
        package: a package of plug-ins, such as "explain_core.methods".
        folder: a directory with one plug-in per file; relative to the working directory, or absolute.

    Raises:
        NotADirectoryError: there is no such directory.
        ValueError: a file has the name of a plug-in that there is already; neither may hide the other.
    """
    names_in(package, folder)
    place, searched = str(folder.resolve()), importlib.import_module(package).__path__
    if place not in searched:
        searched.append(place)


def names_in(package: str, folder: Path) -> tuple[str, ...]:
    """Names of the modules that `add_folder` would add to `package`, sorted; nothing is imported or added.

    Raises:
        NotADirectoryError, ValueError: as of `add_folder`.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder")
    place, searched = str(folder.resolve()), importlib.import_module(package).__path__
    names = {module.name for module in pkgutil.iter_modules([place]) if not module.name.startswith("_")}
    taken = names & {module.name for module in pkgutil.iter_modules([one for one in searched if one != place])}
    if taken:
        raise ValueError(f"{package} already has {', '.join(sorted(taken))}; rename the file in {folder}")
    return tuple(sorted(names))


def load(package: str, name: str) -> Any:
    """Import `name` from `package` and return its `PLUGIN`.

    Raises:
        UnknownName: no such module in the package, and the message lists the ones there are; or it has no `PLUGIN`.
    """
    names = available(package)
    if name not in names:
        raise UnknownName(f"{package} has no {name!r}; there is: {', '.join(names)}")
    module = importlib.import_module(f"{package}.{name}")
    if not hasattr(module, "PLUGIN"):
        raise UnknownName(f"{module.__file__} defines no PLUGIN")
    return module.PLUGIN
