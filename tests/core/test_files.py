"""Files that are there whole or not at all."""

import os
from pathlib import Path

import pytest

from explain_core.files import fresh, read_json, write, write_json


def test_an_error_or_a_stop_leaves_what_was_there(tmp_path):
    path = tmp_path / "a"
    write(path, "before")

    def half():
        with fresh(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_a_file_is_synced_with_its_folder_before_its_name_counts_unless_it_need_not(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def noted(number):
        synced.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        real(number)

    monkeypatch.setattr(os, "fsync", noted)
    write(tmp_path / "a", "x")
    assert [name.endswith(".part") for name in synced] == [True, False]
    assert synced[1] == str(tmp_path)
    synced.clear()
    write(tmp_path / "b", "x", durable=False)
    assert synced == []


def test_a_new_file_has_the_mode_that_is_asked_for(tmp_path):
    write(tmp_path / "key", "secret", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "3"])
def test_what_is_no_object_reads_as_none(tmp_path, text):
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    assert read_json(tmp_path / "a.json") == {}
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1}
