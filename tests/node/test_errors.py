"""The tree in errors.py: every error of the node stands in it, with what it says of itself."""

import importlib
import pkgutil
import re

import dicom_node
from dicom_node import errors

ENTRY = re.compile(r"^[│├└─ ]*(?P<name>[A-Z]\w+) +(?P<retry>yes|no|-) +(?P<status>0x[0-9A-F]{4}|-) +\S", re.MULTILINE)


def everything(kind):
    return {kind} | {one for child in kind.__subclasses__() for one in everything(child)}


def test_the_tree_names_every_error_with_its_retry_and_its_status():
    for module in pkgutil.walk_packages(dicom_node.__path__, "dicom_node."):
        if not module.name.endswith(("__main__", ".env")) and ".versions" not in module.name:  # Alembic runs those
            importlib.import_module(module.name)
    tree = {found["name"]: (found["retry"], found["status"]) for found in ENTRY.finditer(errors.__doc__)}
    real = {one.__name__: one for one in everything(errors.NodeError) if one.__module__.startswith("dicom_node.")}
    assert set(tree) == set(real) - {"NodeError"}
    for name, (retry, status) in tree.items():
        assert retry == "-" or (retry == "yes") == real[name].retry, name
        assert status == "-" or int(status, 16) == real[name].status, name
