"""The folder is the registry: a plug-in is a module of a package that defines `PLUGIN`."""

import importlib
import pkgutil
from typing import Any


def available(package: str) -> tuple[str, ...]:
    """Names of the plug-in modules in `package`, sorted; nothing is imported but the package itself."""
    folder = importlib.import_module(package)
    names = (module.name for module in pkgutil.iter_modules(folder.__path__))
    return tuple(sorted(name for name in names if not name.startswith("_")))


def load(package: str, name: str) -> Any:
    """Import `name` from `package` and return its `PLUGIN`.

    Raises:
        LookupError: no such module in the package; the message lists the ones there are.
    """
    names = available(package)
    if name not in names:
        raise LookupError(f"{package} has no {name!r}; there is: {', '.join(names)}")
    return importlib.import_module(f"{package}.{name}").PLUGIN
