"""A soak's judge can find what is lost or doubled, its faults follow from the seed, and short soaks come out well."""

import json
import subprocess
import sys

import pytest
from databases import PostgreSQL
from soak.chaos import FAULTS, schedule
from soak.modality import Sent
from soak.pacs import Arrival
from soak.verdict import percentiles, verdict


def arrived(uid, about, *, modality="SR", series=9902, digest="d", at=12.0, study="1"):
    return Arrival(
        at=at, uid=uid, study=study, series_number=series, modality=modality, digest=digest, about=frozenset(about)
    )


STUDY = Sent("1", acknowledged={"1.1": 10.0, "1.2": 11.0}, tries=3, seconds=[0.1, 0.3])
GOOD = [arrived("9.1", {"1.1"}, modality="OT", series=9901), arrived("9.2", {"1.1", "1.2"}, at=14.0)]


def judged(*arrivals, tasks=1):
    return verdict([STUDY], arrivals, {"1": tasks})


def test_what_is_explained_or_reported_once_is_good():
    found = judged(*GOOD)
    assert found.good
    assert (found.sent, found.tries, found.acknowledged, found.explained, found.reported) == (2, 3, 2, 1, 1)
    assert found.seconds["p50"] == 3.0, "from the last image to the report about it"


def test_an_acknowledged_image_without_a_report_is_lost():
    found = judged(GOOD[0], arrived("9.2", {"1.1"}))
    assert found.lost == ("1.2",)
    assert not found.good


def test_an_object_that_comes_again_unchanged_is_no_double():
    assert judged(*GOOD, GOOD[0]).good
    assert judged(*GOOD, GOOD[0]).repeated == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (arrived("9.1", {"1.1"}, modality="OT", series=9901, digest="other"), "9.1: 2 contents"),
        (arrived("9.3", {"1.1"}, modality="OT", series=9901), "1.1: 2 objects of series 9901"),
        (arrived("9.4", {"1.1"}), "1: 2 reports of 1 tasks"),
    ],
)
def test_two_of_what_there_is_one_of_are_doubled(more, said):
    found = judged(*GOOD, more)
    assert found.doubled == (said,)
    assert not found.good


def test_a_second_revision_has_a_report_of_its_own():
    assert judged(*GOOD, arrived("9.4", {"1.1"}), tasks=2).good


def test_nothing_acknowledged_is_no_success():
    assert not verdict([], [], {}).good


def test_percentiles_are_by_nearest_rank():
    assert percentiles([]) == {}
    assert percentiles(range(1, 101)) == {"p50": 50, "p95": 95, "p99": 99, "max": 100}


def test_the_faults_follow_from_the_seed_and_each_kind_comes_before_any_again():
    faults = schedule(5, 600, 8)
    assert faults == schedule(5, 600, 8) != schedule(6, 600, 8)
    assert {one.kind for one in faults[: len(FAULTS)]} == set(FAULTS)
    assert all(4 <= one.at < 595 and one.seconds >= 0 for one in faults)
    assert schedule(5, 600, 8, ()) == []


def soak(root, folder, *arguments):
    figures = folder / "figures.json"
    command = [sys.executable, "-m", "tests.soak", *arguments, "--json", str(figures)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(figures.read_text())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_minute_of_load_and_faults_on_sqlite_loses_and_doubles_nothing(root, tmp_path):
    found = soak(root, tmp_path, "--minutes", "1", "--rate", "8", "--every", "5")
    assert found["acknowledged"] > 4
    assert found["faults"] > 5


@pytest.mark.slow
@pytest.mark.external
@pytest.mark.timeout(900)
def test_several_of_each_role_on_postgresql_lose_and_double_nothing(root, tmp_path):
    if why := PostgreSQL.missing():
        pytest.skip(why)
    counts = ("--listeners", "2", "--workers", "3", "--senders", "2")
    found = soak(root, tmp_path, "--minutes", "1", "--rate", "6", "--every", "5", "--database", "postgresql", *counts)
    assert found["acknowledged"] > 4
    assert found["faults"] > 6
