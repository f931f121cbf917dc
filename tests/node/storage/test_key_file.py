import os
import stat
import subprocess
import sys

import pytest

from dicom_node.storage.key_file import KeyUnusable, secret_key


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path):
    path = tmp_path / "var" / "export.key"
    before = os.umask(0)
    try:
        first = secret_key(path)
    finally:
        os.umask(before)
    assert len(first) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret_key(path) == first
    assert [one.name for one in path.parent.iterdir()] == ["export.key"]
    assert secret_key(tmp_path / "another.key") != first


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_may_read_or_write_is_refused(tmp_path, mode):
    path = tmp_path / "export.key"
    secret_key(path)
    path.chmod(mode)
    with pytest.raises(KeyUnusable, match="chmod 600"):
        secret_key(path)


@pytest.mark.parametrize("content", [b"", b"secret", b"0" * 63, b"\xff" * 64])
def test_a_file_that_holds_no_key_is_refused_and_stays(tmp_path, content):
    path = tmp_path / "export.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyUnusable, match="no key"):
        secret_key(path)
    assert path.read_bytes() == content


def test_processes_that_make_the_key_at_once_get_the_same(tmp_path):
    program = "import sys; from pathlib import Path; from dicom_node.storage.key_file import secret_key as key"
    program = [sys.executable, "-c", f"{program}; print(key(Path(sys.argv[1])).hex())", str(tmp_path / "k")]
    children = [subprocess.Popen(program, stdout=subprocess.PIPE) for _ in range(2)]
    assert len({child.communicate()[0] for child in children}) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["k"]
