"""Roles that read headers alone load no decoder, and still know an object that comes in another transfer syntax."""

import json
import subprocess
import sys

import pytest
from pydicom.uid import JPEG2000Lossless
from radiographs import synthetic

from dicom_node.app import ROLES, SERVE
from dicom_node.cli.node import DECODING

PROGRAM = """
import json, sys
from pathlib import Path
from dicom_node.dicom.without_decoders import OPTIONAL, import_pydicom
import_pydicom()
import dicom_node.app, {modules}
loaded = [name for name in OPTIONAL if name in sys.modules]
from dicom_node.dicom.identity import same_object
print(json.dumps([loaded, [same_object(Path({one!r}), Path(other)) for other in {others!r}]]))
"""


def told(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_listener_loads_no_decoder_and_knows_an_object_in_another_transfer_syntax(tmp_path):
    native, packed, other = synthetic(), synthetic(), synthetic()
    packed.compress(JPEG2000Lossless, generate_instance_uid=False)
    other.PixelData = bytes(len(other.PixelData))
    other.compress(JPEG2000Lossless, generate_instance_uid=False)
    paths = [str(tmp_path / f"{number}.dcm") for number in range(3)]
    for ds, path in zip((native, packed, other), paths, strict=True):
        ds.save_as(path, enforce_file_format=True)
    loaded, same = told(PROGRAM.format(modules="dicom_node.receive.listener", one=paths[0], others=paths[1:]))
    assert loaded == []
    assert same == [True, False]


@pytest.mark.parametrize(
    ("modules", "loaded"),
    [
        ("dicom_node.route.dispatcher, dicom_node.deliver.sender", []),
        ("dicom_node.web.server, dicom_node.health.watchman", ["numpy"]),  # for the statistics of drift
    ],
)
def test_neither_do_the_other_roles_that_see_no_pixels(modules, loaded):
    assert told(PROGRAM.format(modules=modules, one="", others=[])) == [loaded, []]


def test_whoever_is_not_served_by_it_sees_pixels():
    assert set(ROLES) - set(SERVE) == set(DECODING)


def test_a_process_that_has_pydicom_already_keeps_what_it_has():
    program = """
import json, sys, pydicom
from dicom_node.dicom.without_decoders import import_pydicom
import_pydicom()
print(json.dumps(["numpy" in sys.modules, pydicom.config.have_numpy]))
"""
    assert told(program) == [True, True]


def test_every_package_that_pydicom_may_go_without_is_named():
    program = """
import json, sys
from dicom_node.dicom.without_decoders import import_pydicom
before = set(sys.modules)
import_pydicom()
roots = {one.split(".")[0] for one in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(json.dumps(sorted(roots)))
"""
    assert told(program) == ["pydicom"]
