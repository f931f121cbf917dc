"""Logs carry identifiers; what a data set says stays out, whoever logs it."""

import json
import logging
import subprocess
import sys
import threading
import warnings
from io import StringIO

import pytest
import structlog

from dicom_node.storage.spool import Spool
from dicom_node.watch import logs


@pytest.fixture
def lines():
    stream = StringIO()
    logs.configure("debug", as_json=True, stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_identifiers_are_bound_to_every_line(lines):
    log = structlog.get_logger("some.module")
    with logs.bound(study="1.2.3", task_id="t"):
        log.info("first")
    log.info("second", sop="1.2.4")
    first, second = lines()
    assert (first["event"], first["study"], first["task_id"], first["level"]) == ("first", "1.2.3", "t", "info")
    assert first["logger"] == "some.module"
    assert first["timestamp"].endswith("Z")
    assert "study" not in second


@pytest.mark.parametrize("library", ["pydicom", "pynetdicom.acse", "highdicom"])
def test_dicom_libraries_are_logged_by_their_place_alone(lines, library):
    try:
        int("CANARY")
    except ValueError:
        logging.getLogger(library).exception("bad value %s", "CANARY")
    (line,) = lines()
    assert "CANARY" not in json.dumps(line)
    assert line["event"] == f"{library.split('.')[0]}: error"
    assert line["place"][0].startswith("test_logs.py:")


def test_other_libraries_keep_their_words(lines):
    logging.getLogger("celery").warning("lost %s", "connection")
    assert lines()[0]["event"] == "lost connection"


def test_exceptions_are_logged_by_type_and_place_and_ours_with_words(lines, tmp_path):
    log = structlog.get_logger()
    for action in (lambda: int("CANARY"), lambda: Spool(tmp_path, 1 << 60).check_space()):
        try:
            action()
        except Exception:
            log.exception("failed")
    foreign, ours = lines()
    assert "CANARY" not in json.dumps(foreign)
    assert (foreign["error"], "message" in foreign) == ("ValueError", False)
    assert foreign["place"][-1].startswith("test_logs.py:")
    assert ours["error"] == "OutOfResources"
    assert ours["message"].startswith("Low disk space")


def test_warnings_are_logged_by_category_and_place(lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = logs._show_warning  # pytest has its own in place
        warnings.warn("Invalid value CANARY", stacklevel=1)
    (line,) = lines()
    assert (line["category"], "CANARY" in json.dumps(line)) == ("UserWarning", False)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_nobody_catches_is_logged_without_its_words():
    program = """
import threading
from dicom_node.watch import logs
logs.configure("info", as_json=True)
thread = threading.Thread(target=lambda: int("CANARY"))
thread.start()
thread.join()
int("CANARY")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    in_thread, in_main = [json.loads(line) for line in done.stderr.splitlines()]
    assert (in_thread["event"], in_main["event"]) == ("uncaught exception in a thread", "uncaught exception")
    assert "CANARY" not in done.stderr + done.stdout


@pytest.mark.usefixtures("lines")
def test_levels():
    logs.configure("warning", stream=sys.stdout)
    assert not structlog.get_logger("x").is_enabled_for(logging.INFO)


def test_without_warnings_leaves_the_filters_of_all_threads_alone():
    before = list(warnings.filters)

    def work():
        for _ in range(200):
            with logs.without_warnings():
                warnings.warn("quiet", stacklevel=1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_who_silences_warnings_waits_for_nobody():
    """A film that is decoded to be compared must not hold up every other C-STORE."""
    inside, let_go = threading.Event(), threading.Event()

    def decode():
        with logs.without_warnings():
            inside.set()
            let_go.wait(60)

    before = list(warnings.filters)
    thread = threading.Thread(target=decode)
    thread.start()
    assert inside.wait(60)
    with warnings.catch_warnings(record=True) as heard, logs.without_warnings():
        warnings.warn("quiet", stacklevel=1)
    let_go.set()
    thread.join()
    assert heard == []
    assert list(warnings.filters) == before
