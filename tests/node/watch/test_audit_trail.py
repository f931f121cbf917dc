"""The chain on disk: several writers, killed ones, full disks; and `verify` that finds every change."""

import collections
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from auditing import events, lines
from receiving import small_disk
from working import python, wait_for

from dicom_node.watch import audit_recorder, audit_trail
from dicom_node.watch.audit import Audit
from dicom_node.watch.audit_recorder import Recorder
from dicom_node.watch.audit_trail import HEAD, Trail, files, seal
from dicom_node.watch.audit_verify import Noted, verify

WRITER = str(Path(__file__).with_name("audit_writer.py"))
KEY = b"k" * 32
DAY = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Clock:
    now = DAY

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def trail(tmp_path, clock):
    return Trail(tmp_path / "audit", clock=clock)


def write(trail, count=1):
    audit = Audit("listener", "EXPLAIN", trail.append, clock=trail._clock)
    for number in range(count):
        audit.login(f"user{number}", "127.0.0.1")


def file_of(trail, index=-1):
    return files(trail.folder)[index]


def edit(path, change):
    """Change the lines of a file."""
    rows = path.read_bytes().splitlines(keepends=True)
    change(rows)
    path.write_bytes(b"".join(rows))


def test_a_trail_is_a_chain_and_fits(trail):
    write(trail, 3)
    first, second, third = lines(trail.folder)
    assert [one["number"] for one in (first, second, third)] == [1, 2, 3]
    assert first["previous"] == "0" * 64
    assert (second["previous"], third["previous"]) == (first["sha256"], second["sha256"])
    assert list(third)[:3] == ["number", "previous", "EventIdentification"]
    found = verify(trail.folder)
    assert (found.fault, found.remarks, found.lines, found.last) == ("", [], 3, 3)
    assert found.digest == third["sha256"]


def test_everything_of_a_trail_is_its_owners_alone(trail):
    before = os.umask(0)
    try:
        write(trail)
    finally:
        os.umask(before)
    assert trail.folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in trail.folder.iterdir())


def test_the_chain_goes_on_from_day_to_day_and_within_a_long_one(tmp_path, clock):
    trail = Trail(tmp_path / "audit", clock=clock, longest=2000)
    write(trail, 5)
    clock.now += timedelta(days=1)
    write(trail, 2)
    clock.now -= timedelta(days=3)  # a clock that goes back begins no file before the last one
    write(trail, 1)
    names = [path.name for path in files(trail.folder)]
    assert names[:2] == ["audit-2026-03-01.jsonl", "audit-2026-03-01-2.jsonl"]
    assert "audit-2026-03-02.jsonl" in names
    assert min(names) == "audit-2026-03-01-2.jsonl", "the order is that of days and numbers, not of letters"
    assert [one["number"] for one in lines(trail.folder)] == list(range(1, 9))
    assert verify(trail.folder).fault == ""


def test_many_parts_of_a_day_are_in_order(tmp_path, clock):
    trail = Trail(tmp_path / "audit", clock=clock, longest=1)
    write(trail, 12)
    assert len(files(trail.folder)) == 12
    assert verify(trail.folder).lines == 12


def test_when_the_oldest_files_are_gone_it_begins_with_the_oldest_that_is_there_and_says_so(tmp_path, clock):
    trail = Trail(tmp_path / "audit", clock=clock, longest=1)
    write(trail, 5)
    for path in files(trail.folder)[:2]:
        path.unlink()
    found = verify(trail.folder)
    assert (found.fault, found.first, found.lines) == ("", 3, 3)
    assert re.search(r"begins with line 3 of 2026-03-01.*: older files have been removed", found.remarks[0])
    write(trail, 1)
    assert verify(trail.folder).last == 6


# Every kind of tampering, and what is said of it -------------------------------------------------------------------


def change_text(rows):
    rows[2] = rows[2].replace(b"user2", b"userX")


def change_digest(rows):
    other = b"1" if rows[2][-10:-9] == b"0" else b"0"
    rows[2] = rows[2][:-10] + other + rows[2][-9:]


def change_first(rows):
    rows[0] = rows[0].replace(b"user0", b"userX")


def change_last(rows):
    rows[5] = rows[5].replace(b"user5", b"userX")


def remove_one(rows):
    del rows[2]


def remove_several(rows):
    del rows[1:4]


def swap(rows):
    rows[1], rows[2] = rows[2], rows[1]


def double(rows):
    rows.insert(3, rows[2])


def add_rubbish(rows):
    rows.insert(2, b"{}\n")


def add_at_the_end(rows):
    rows.append(b"{}\n")


def add_forged(rows):
    first = json.loads(rows[1])
    forged = {"number": 3, "previous": first["sha256"], "EventIdentification": {"EventDateTime": "2026"}}
    rows.insert(2, seal(forged, None)[0] + b"\n")


def change_and_seal_again(rows):
    changed = json.loads(rows[2].replace(b"user2", b"userX"))
    changed.pop("sha256")
    rows[2] = seal(changed, None)[0] + b"\n"


def cut_end(rows):
    del rows[4:]


def cut_last_line_in_two(rows):
    rows[5] = rows[5][:100]


def empty(rows):
    rows.clear()


TAMPERING = [
    (change_text, ":3: changed, added, or not a line"),
    (change_digest, ":3: changed, added, or not a line"),
    (change_first, ":1: changed, added, or not a line"),
    (change_last, ":6: changed, added, or not a line"),
    (remove_one, ":3: lines 3 to 3 are missing before it"),
    (remove_several, ":2: lines 2 to 4 are missing before it"),
    (swap, ":2: lines 2 to 2 are missing before it"),
    (double, ":4: line 3 stands here a second time, or was added"),
    (add_rubbish, ":3: changed, added, or not a line"),
    (add_at_the_end, ":7: changed, added, or not a line"),
    (add_forged, ":4: line 3 stands here a second time, or was added"),
    (change_and_seal_again, ":4: does not follow the line before it, which was changed, or it was added"),
    (cut_end, "lines 5 to 6 are missing at the end: the trail was cut"),
    (cut_last_line_in_two, "lines 6 to 6 are missing at the end: the trail was cut"),
    (empty, "lines 1 to 6 are missing at the end: the trail was cut"),
]


@pytest.mark.parametrize(("tamper", "said"), TAMPERING, ids=lambda one: getattr(one, "__name__", ""))
def test_verify_names_the_first_line_that_does_not_fit(trail, tamper, said):
    write(trail, 6)
    assert verify(trail.folder).fault == ""
    edit(file_of(trail), tamper)
    assert said in verify(trail.folder).fault
    write(trail, 2)  # what the node writes afterwards hides nothing
    fault = verify(trail.folder).fault
    assert fault
    assert not fault.endswith("the trail was cut"), "now the next line shows it, by name"


def test_a_file_of_the_middle_or_of_the_end_that_is_gone_is_found(tmp_path, clock):
    trail = Trail(tmp_path / "audit", clock=clock, longest=1)
    write(trail, 6)
    third, last = file_of(trail, 2), file_of(trail)
    kept = last.read_bytes()
    last.unlink()
    assert "lines 6 to 6 are missing at the end" in verify(trail.folder).fault
    last.write_bytes(kept)
    assert verify(trail.folder).fault == ""
    third.unlink()
    assert "lines 3 to 3 are missing before it" in verify(trail.folder).fault


def test_the_newest_file_gone_shows_even_after_the_node_has_written_again(trail):
    write(trail, 3)
    file_of(trail).unlink()
    write(trail, 1)
    assert "the head was not as it had been left (its file was cut)" in verify(trail.folder).fault


def test_a_head_that_is_gone_or_changed_is_found_before_and_after_the_next_line(trail):
    write(trail, 3)
    edit(file_of(trail), lambda rows: rows.pop())
    (trail.folder / HEAD).unlink()
    assert "its head is missing or was changed" in verify(trail.folder).fault
    write(trail, 1)
    assert "the head was not as it had been left (missing)" in verify(trail.folder).fault


def test_a_chain_written_anew_fits_without_a_key_and_not_with_what_was_noted(trail, tmp_path, clock):
    write(trail, 4)
    seen = verify(trail.folder)
    noted = Noted(number=seen.last, digest=seen.digest)
    write(trail, 2)
    assert verify(trail.folder, noted=noted).fault == ""
    forged = Trail(tmp_path / "forged", clock=clock)
    write(forged, 2)
    write(forged, 4)
    assert verify(forged.folder).fault == ""
    assert "has another digest than at an earlier look" in verify(forged.folder, noted=noted).fault
    short = Trail(tmp_path / "short", clock=clock)
    write(short, 2)
    assert "line 4 was there at an earlier look; the trail ends with line 2" in verify(short.folder, noted=noted).fault


# With a key --------------------------------------------------------------------------------------------------------


@pytest.fixture
def keyed(tmp_path, clock):
    return Trail(tmp_path / "audit", key=KEY, clock=clock)


def test_with_a_key_a_chain_cannot_be_written_anew_by_who_has_not_got_it(keyed, tmp_path, clock):
    write(keyed, 6)
    assert verify(keyed.folder, KEY).fault == ""
    assert "sealed with a key: set audit.seal_key" in verify(keyed.folder).fault
    assert verify(keyed.folder, b"x" * 32).fault
    anew = Trail(tmp_path / "anew", clock=clock)
    write(anew, 6)
    assert "no line was written with the key" in verify(anew.folder, KEY).fault
    other = Trail(tmp_path / "other", key=b"x" * 32, clock=clock)
    write(other, 6)
    assert verify(other.folder, KEY).fault


def test_with_a_key_no_line_can_be_put_behind_the_last(keyed):
    write(keyed, 3)
    last = lines(keyed.folder)[-1]
    forged, _ = seal({"number": 4, "previous": last["hmac-sha256"], "EventIdentification": {}}, None)
    with file_of(keyed).open("ab") as file:
        file.write(forged + b"\n")
    assert "sealed without the key" in verify(keyed.folder, KEY).fault
    write(keyed, 1)
    assert verify(keyed.folder, KEY).fault


def test_a_key_may_be_introduced_and_not_be_given_up(tmp_path, clock):
    plain = Trail(tmp_path / "audit", clock=clock)
    write(plain, 2)
    keyed = Trail(tmp_path / "audit", key=KEY, clock=clock)
    write(keyed, 2)
    found = verify(keyed.folder, KEY)
    assert (found.fault, found.lines) == ("", 4)
    assert found.remarks == ["the first 2 line(s) were written before there was a key"]
    write(plain, 1)
    assert verify(keyed.folder, KEY).fault


def test_a_head_sealed_without_the_key_hides_no_cut(keyed):
    write(keyed, 4)
    third = lines(keyed.folder)[2]
    edit(file_of(keyed), lambda rows: rows.pop())
    content = {
        "file": file_of(keyed).name,
        "length": file_of(keyed).stat().st_size,
        "number": 3,
        "digest": third["hmac-sha256"],
    }
    with (keyed.folder / HEAD).open("r+b") as head:
        head.write(seal(content, None)[0].ljust(511) + b"\n")
    write(keyed, 1)
    assert "the head was not as it had been left (without the key)" in verify(keyed.folder, KEY).fault


# Several writers, and writers that die -----------------------------------------------------------------------------


def test_processes_that_write_at_once_make_one_chain(tmp_path):
    folder = tmp_path / "audit"
    started = [python(WRITER, str(folder), f"p{number}", "60") for number in range(4)]
    threads = [threading.Thread(target=write, args=(Trail(folder, longest=20_000), 30)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.wait(60) for one in started] == [0, 0, 0, 0]
    found = verify(folder)
    assert (found.fault, found.remarks, found.lines) == ("", [], 4 * 60 + 2 * 30)
    assert len(files(folder)) > 5
    users = collections.Counter(one["ActiveParticipant"][0]["UserID"].partition("-")[0] for one in lines(folder))
    assert {users[f"p{number}"] for number in range(4)} == {60}
    for name in ("p0", "p3"):  # of each process in its order
        of_one = [one["ActiveParticipant"][0]["UserID"] for one in lines(folder)]
        assert [one for one in of_one if one.startswith(name)] == [f"{name}-{number}" for number in range(60)]


@pytest.mark.parametrize("torn", [b'{"number":4,"previous":"ab', b"\0" * 40, b"{"])
def test_a_torn_line_is_told_and_the_chain_goes_on(trail, torn):
    write(trail, 3)
    with file_of(trail).open("ab") as file:
        file.write(torn)
    write(trail, 2)
    found = verify(trail.folder)
    assert (found.fault, found.lines, found.last) == ("", 5, 5)
    assert len(found.remarks) == 1
    assert ":4: a torn line, as a killed writer leaves it; the chain goes on" in found.remarks[0]


@pytest.mark.parametrize("added", [b"{}\n", b"x\ny\nz"])
def test_what_no_killed_writer_leaves_was_added_even_after_the_node_has_written_again(trail, added):
    write(trail, 3)
    with file_of(trail).open("ab") as file:
        file.write(added)
    write(trail, 2)
    assert ":4: changed, added, or not a line" in verify(trail.folder).fault
    edit(file_of(trail), lambda rows: rows.__delitem__(slice(3, 3 + added.count(b"\n") + (not added.endswith(b"\n")))))
    assert ":4: something that was added stood before it and is gone" in verify(trail.folder).fault


def test_a_line_cannot_be_made_a_torn_one_and_a_torn_one_cannot_go(trail):
    write(trail, 3)
    with file_of(trail).open("ab") as file:
        file.write(b'{"number":4,"prev')
    assert "not a whole line" in verify(trail.folder).remarks[0]
    write(trail, 2)
    kept = file_of(trail).read_bytes()
    edit(file_of(trail), lambda rows: rows.pop(3))
    assert "the torn line before it is gone" in verify(trail.folder).fault
    file_of(trail).write_bytes(kept.replace(b'{"number":4,"prev\n', b'{"number":4,"prex\n'))
    assert ":4: changed, added, or not a line" in verify(trail.folder).fault
    file_of(trail).write_bytes(kept)
    edit(file_of(trail), lambda rows: rows.__setitem__(1, rows[1][:50] + b"\n"))
    assert ":2: changed, added, or not a line" in verify(trail.folder).fault


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_whole_line_behind_the_head_is_taken_into_the_chain(trail, end):
    """As a writer leaves it that is killed between the line and the head."""
    write(trail, 2)
    head = (trail.folder / HEAD).read_bytes()
    write(trail, 1)
    (trail.folder / HEAD).write_bytes(head)
    file_of(trail).write_bytes(file_of(trail).read_bytes()[:-1] + end)
    write(trail, 1)
    found = verify(trail.folder)
    assert (found.fault, found.remarks, found.lines) == ("", [], 4)


def test_a_writer_killed_right_after_the_very_first_line_leaves_no_trace(trail, monkeypatch):
    written = []

    def only_once(self, lock, head):
        written.append(head)
        if len(written) == 1:
            real(self, lock, head)

    real = Trail._write_head
    monkeypatch.setattr(Trail, "_write_head", only_once)
    write(trail, 1)
    monkeypatch.undo()
    write(trail, 1)
    assert verify(trail.folder).lines == 2
    assert verify(trail.folder).fault == ""


def test_killed_writers_break_no_chain(tmp_path):
    folder = tmp_path / "audit"
    for turn in range(4):
        victims = [python(WRITER, str(folder), f"v{turn}{number}", "forever") for number in range(2)]
        there = len(lines(folder)) if folder.exists() else 0
        wait_for(lambda there=there: folder.exists() and len(lines(folder)) > there + 10, what="lines")
        for victim in victims:
            victim.kill()
            victim.wait()
    write(Trail(folder), 1)
    found = verify(folder)
    assert (found.fault, found.lines) == ("", found.last)


def test_a_process_that_is_stopped_with_the_lock_holds_nobody_up(trail, monkeypatch):
    write(trail, 1)
    monkeypatch.setattr(audit_trail, "LOCK_SECONDS", 0.1)
    with (trail.folder / HEAD).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process holds the audit's lock"):
            write(trail, 1)
    write(trail, 1)
    assert verify(trail.folder).lines == 2


# A trail that cannot be written ------------------------------------------------------------------------------------


@pytest.fixture
def recorder(trail, monkeypatch):
    monkeypatch.setattr(audit_recorder, "RETRY_SECONDS", 0.0)
    audit = Audit("listener", "EXPLAIN", lambda messages: made.write(messages))  # noqa: PLW0108 - made below
    made = Recorder(trail, audit.gap, trail._clock)
    return audit, made


def test_a_full_disk_holds_nobody_up_is_said_and_the_trail_says_since_when(tmp_path, monkeypatch, capsys):
    from dicom_node.watch import logs

    logs.configure("info")
    monkeypatch.setattr(audit_recorder, "RETRY_SECONDS", 0.0)
    with small_disk(tmp_path / "disk", 1) as disk:
        trail = Trail(disk / "audit")
        audit = Audit("listener", "EXPLAIN", lambda messages: recorder.write(messages))  # noqa: PLW0108 - made below
        recorder = Recorder(trail, audit.gap, trail._clock)
        audit.login("before", "127.0.0.1")
        filler = disk / "filler"
        filler.write_bytes(b"x" * (shutil.disk_usage(disk).free - 4096))
        with pytest.raises(OSError, match="No space"):
            (disk / "rest").write_bytes(b"x" * 8192)
        for number in range(40):
            audit.login(f"meanwhile{number}", "127.0.0.1")
        meanwhile = verify(trail.folder)
        assert (meanwhile.fault, meanwhile.remarks) == ("", []), "no torn line of one that lives"
        filler.unlink()
        audit.login("after", "127.0.0.1")
        assert verify(trail.folder).fault == ""
        users = [one["ActiveParticipant"][0]["UserID"] for one in lines(trail.folder)]
        kinds = events(trail.folder)
    assert [kinds.count(f"Security Alert: Audit Recording {one}") for one in ("Stopped", "Started")] == [1, 1]
    expected = ["before", *(f"meanwhile{number}" for number in range(40)), "after"]
    assert [one for one in users if not one.isdigit()] == expected
    said = capsys.readouterr().err
    assert said.count("audit cannot be written") == 1
    assert "No space left on device" in said
    assert "audit is written again" in said


def test_more_than_memory_may_hold_is_lost_counted_and_said(recorder, trail, monkeypatch):
    audit, writer = recorder
    monkeypatch.setattr(audit_recorder, "MOST_WAITING", 3)
    write_really = trail.append

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trail, "append", fail)
    for number in range(5):
        audit.login(f"user{number}", "127.0.0.1")
    monkeypatch.setattr(trail, "append", write_really)
    writer.retry()
    stopped = lines(trail.folder)[0]
    assert "2 message(s) are lost" in json.dumps(stopped)
    assert stopped["EventIdentification"]["EventOutcomeIndicator"] == "12"
    assert len(lines(trail.folder)) == 5


def test_what_is_lost_at_the_end_of_a_process_is_in_the_log(recorder, trail, monkeypatch, capsys):
    from dicom_node.watch import logs

    logs.configure("info")
    audit, writer = recorder

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trail, "append", fail)
    audit.login("user", "127.0.0.1")
    writer.close()
    assert re.search(r"audit messages lost.*count=1", capsys.readouterr().err)


def test_lines_are_synced_before_the_caller_goes_on(tmp_path):
    """As strace saw it: the line, its fsync, the head, its fsync."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    out = tmp_path / "strace"
    command = ["strace", "-f", "-o", str(out), "-e", "trace=write,pwrite64,fsync,openat"]
    command += [sys.executable, WRITER, str(tmp_path / "audit"), "p", "1"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("strace may not trace here")
    text = out.read_text()
    calls = re.findall(r"(write|pwrite64|fsync)\(", text[text.index("audit-20") :])
    assert calls[:4] == ["write", "fsync", "fsync", "pwrite64"]
