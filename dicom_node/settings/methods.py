"""What the settings may say of explanation methods: which, and folders with a site's own; no file is imported."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from dicom_node.settings.rule_tables import split_words
from explain_core import plugins

Key = tuple[str | int, ...]


def _wanted(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or len(set(names)) < len(names):
        raise ValueError("name at least one explanation method, and each once, or remove the key")
    return names


Methods = Annotated[tuple[str, ...], BeforeValidator(split_words), AfterValidator(_wanted)]


def problems(folders: Iterable[Path], named: Mapping[Key, Iterable[str]]) -> Iterator[tuple[Key, str]]:
    """Folders that cannot be searched for methods, and names that no method has.

    Args:
        folders: `model.method_folders`.
        named: by key of the settings, the methods that it names.

    Yields:
        The key and what to do.
    """
    known = {*plugins.available(plugins.METHODS)}
    for index, folder in enumerate(folders):
        try:
            known.update(plugins.names_in(plugins.METHODS, folder))
        except (NotADirectoryError, ValueError) as error:
            yield ("model", "method_folders", index), str(error)
    for key, names in named.items():
        for name in names:
            if name not in known:
                yield key, f"there is no explanation method {name}; there is: {', '.join(sorted(known))}"
