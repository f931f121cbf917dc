"""Which files of an audit trail may go."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from dicom_node.watch.audit_kept import OldTrail
from dicom_node.watch.audit_trail import Trail, files
from dicom_node.watch.audit_verify import verify

FIRST = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path):
    """A message a day, for five days."""
    for day in range(5):
        Trail(tmp_path, clock=lambda day=day: FIRST + timedelta(days=day)).append([{"message": day}])
    return tmp_path


def test_days_that_ended_go_and_the_rest_of_the_chain_is_whole(folder):
    kept = OldTrail(folder, sent=False)
    assert kept.expire(datetime(2026, 3, 3, 23, 59, tzinfo=UTC), dry_run=True)[0] == 2
    assert len(files(folder)) == 5
    count, size = kept.expire(datetime(2026, 3, 3, 23, 59, tzinfo=UTC), dry_run=False)
    assert count == 2
    assert size > 100
    assert [path.name for path in kept.files()] == [f"audit-2026-03-0{day}.jsonl" for day in (3, 4, 5)]
    found = verify(folder, None)
    assert found.fault == ""
    assert found.first == 3


def test_the_newest_stays_and_without_a_time_all_do(folder):
    kept = OldTrail(folder, sent=False)
    assert kept.expire(None, dry_run=False) == (0, 0)
    assert kept.expire(FIRST + timedelta(days=1000), dry_run=False)[0] == 4
    assert len(files(folder)) == 1


def test_what_the_repository_has_not_taken_stays(folder):
    kept = OldTrail(folder, sent=True)
    assert kept.expire(FIRST + timedelta(days=1000), dry_run=False)[0] == 0, "nothing was sent yet"
    (folder / "syslog.json").write_text(json.dumps({"file": "audit-2026-03-03.jsonl", "length": 0, "number": 2}))
    assert kept.expire(FIRST + timedelta(days=1000), dry_run=False)[0] == 2
