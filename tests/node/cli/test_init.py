"""`dicom-node init`: options and questions, real peers, Redis and a terminal; what is wrong is said and not written."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from certificates import Authority, tls_settings
from receiving import running
from typer.testing import CliRunner
from working import Peer, RedisServer, free_port, short_folder

from dicom_node.cli import _site, app
from dicom_node.cli._site import Site
from dicom_node.demo.servers import Orthanc
from dicom_node.settings.loading import load_settings
from dicom_node.settings.template import TEMPLATE, filled


def run(*arguments, expect=0):
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == expect, done.output
    return done


@pytest.fixture(scope="module")
def redis():
    with short_folder() as folder:
        started = RedisServer(folder)
        started.start()
        yield started.url
        started.stop()


@pytest.fixture
def pacs():
    started = Peer().start()
    yield started
    started.stop()


class Place:
    """Where the settings of a test go, and the options with which nothing is wrong."""

    def __init__(self, folder, redis, pacs):
        self.folder, self.file = folder / "etc", folder / "etc" / "node.toml"
        self.folder.mkdir()
        self.spool = folder / "data" / "spool"
        self.pacs = f"PACS@127.0.0.1:{pacs.port}"
        self.options = {
            "--sender": "PACS@127.0.0.1", "--destination": self.pacs, "--spool": self.spool, "--device": "cpu",
            "--redis": redis, "--port": free_port(),
        }  # fmt: skip

    @property
    def itself(self):
        """Of these two nobody is asked."""
        return [word for name in ("--redis", "--port") for word in (name, self.options[name])]

    def words(self, **changes):
        options = self.options | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
        return [self.file, *(word for name, value in options.items() if value is not None for word in (name, value))]


@pytest.fixture
def place(tmp_path, redis, pacs):
    return Place(tmp_path, redis, pacs)


def test_options_alone_write_a_file_that_check_config_and_doctor_are_content_with(place):
    told = json.loads(run("init", *place.words(), "--no-tls", "--json").stdout)
    assert (told["file"], told["wrong"]) == (str(place.file), [])
    assert told["next"] == [f"dicom-node {one} --config {place.file}" for one in ("doctor", "serve", "worker")]
    assert place.file.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in place.folder.iterdir()] == ["node.toml"]
    assert not place.spool.parent.exists(), "checking makes nothing"
    settings = load_settings(place.file, {})
    assert settings.node.calling_ae_titles == ("PACS@127.0.0.1",)
    assert (settings.node.host, settings.model.device) == ("127.0.0.1", "cpu")
    assert settings.node.database == f"sqlite:///{place.spool.parent}/ledger.sqlite"
    assert "ok:" in run("check-config", "--config", place.file).stdout
    run("doctor", "--no-model", "--config", place.file)


def test_the_file_has_the_comments_of_the_shipped_one_and_no_path_that_depends_on_the_working_directory(tmp_path):
    files = {name: tmp_path / f"{name}.pem" for name in ("certificate", "key", "authorities")}
    site = Site(senders=("PACS@192.0.2.7",), destination="A@h:104", destination_tls=True, spool=tmp_path / "s", **files)
    text = site.text()
    shipped = TEMPLATE.read_text()
    assert re.findall(r"#[^\n]*$", text, re.MULTILINE)[:5] == re.findall(r"#[^\n]*$", shipped, re.MULTILINE)[:5]
    said = {line.partition("  # ")[2] for line in shipped.splitlines()}
    assert said <= {line.partition("  # ")[2] for line in text.splitlines()}
    set_keys = "\n".join(line.partition("  #")[0] for line in text.splitlines() if not line.startswith("#"))
    assert "var/" not in set_keys
    (tmp_path / "n.toml").write_text(text)
    settings = load_settings(tmp_path / "n.toml", {})
    assert (settings.destinations[0].tls, settings.tls.serves, settings.node.host) == (True, True, "0.0.0.0")  # noqa: S104
    web = Site(senders=("PACS",), destination='https://pacs.example.org/a"b/', spool=tmp_path / "s").text()
    (tmp_path / "w.toml").write_text(web)
    assert load_settings(tmp_path / "w.toml", {}).destinations[0].url == 'https://pacs.example.org/a"b'


def test_the_template_is_whole_and_a_key_that_it_lacks_is_a_fault():
    assert filled({}, {}) == TEMPLATE.read_text()
    with pytest.raises(KeyError, match=r"node\.ae_titel"):
        filled({("node", "ae_titel"): "X"}, {})


@pytest.mark.parametrize(
    ("changes", "said", "status"),
    [
        ({"sender": None}, "--sender: nobody could send", 2),
        ({"sender": "A_TITLE_OF_MORE_THAN_16"}, "--sender: an AE title has 1 to 16", 2),
        ({"sender": "PACS@10.1.0.7/16"}, "--sender: after the @ stands an address or a network", 2),
        ({"destination": None}, "--destination: nobody would get results", 2),
        ({"destination": "PACS@host"}, "--destination: write AE@HOST:PORT", 2),
        ({"destination": "PACS@127.0.0.1:1"}, "--destination: no association: ", 1),
        ({"destination": "http://127.0.0.1:1/dicom-web"}, "--destination: ", 1),
        ({"spool": "var/spool"}, "--spool: var/spool: give a whole path", 2),
        ({"spool": "/proc/spool"}, "--spool: /proc ", 1),
        ({"device": "gpu"}, "--device: ", 2),
        ({"device": "cuda:99"}, "--device: ", 1),
        ({"ae_title": "EX\\PLAIN"}, "the node itself: an AE title has 1 to 16", 2),
        ({"redis": "redis://127.0.0.1:1/0"}, "the node itself: the broker does not answer", 1),
        ({"tls_cert": "/none.pem"}, "--tls-cert: TLS needs PEM files of", 2),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(changes, said, status, place):
    done = run("init", *place.words(**changes), "--yes", expect=status)
    assert done.stderr.startswith(f"error: {said}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert list(place.folder.iterdir()) == []


def test_what_is_wrong_may_be_kept_knowingly(place):
    told = json.loads(run("init", *place.words(destination="PACS@127.0.0.1:1"), "--json", "--keep").stdout)
    (wrong,) = told["wrong"]
    assert wrong.startswith("--destination: no association")
    assert place.file.is_file()


def test_a_port_that_is_taken_and_a_file_that_is_there(place, pacs):
    done = run("init", *place.words(port=pacs.port), "--yes", expect=1)
    assert f"port {pacs.port} cannot be listened on" in done.stderr
    place.file.write_text("mine")
    assert "--overwrite writes over it" in run("init", *place.words(), "--yes", expect=1).stderr
    assert place.file.read_text() == "mine"
    assert "written: " in run("init", *place.words(), "--yes", "--overwrite").stdout
    assert load_settings(place.file, {}).destinations


def test_tls_is_tried_with_the_files_that_are_given(place, tmp_path):
    files = Authority(tmp_path / "authority").issue("node")
    with running(tmp_path / "peer", tls=tls_settings(files), calling_ae_titles="EXPLAIN") as peer:
        there = f"EXPLAIN@127.0.0.1:{peer.listener.tls_port}"
        names = {"tls_cert": files.certificate, "tls_key": files.key, "tls_authorities": files.authorities}
        site = Site(
            senders=("PACS",), destination=there, destination_tls=True, certificate=files.certificate, key=files.key,
            authorities=files.authorities,
        )  # fmt: skip
        assert list(_site.check_destination(site)) == []
        wrong = place.words(destination=there, **names | {"tls_key": tmp_path / "none.key"})
        assert "none.key" in run("init", *wrong, "--yes", expect=2).stderr
        plain = place.words(destination=there, **names)
        done = run("init", *plain, "--destination-plain", "--json", expect=1)
        assert "--destination: " in json.loads(done.stderr)["error"]


@pytest.mark.external
def test_a_real_pacs_is_called(place, tmp_path):
    if Orthanc.executable() is None:
        pytest.skip("Orthanc is not installed; deploy/install-debian-packages.sh installs it")
    orthanc = Orthanc(tmp_path / "orthanc", {"explain": "EXPLAIN"})
    orthanc.start()
    try:
        there = f"ORTHANC@127.0.0.1:{orthanc.port}"
        assert json.loads(run("init", *place.words(destination=there), "--json").stdout)["wrong"] == []
        run("doctor", "--no-model", "--config", place.file)
        stranger = place.words(destination=there, ae_title="STRANGER")
        done = run("init", *stranger, "--yes", "--overwrite", expect=1)
        assert "Calling AE title not recognised: let the PACS know our AE title" in done.stderr
    finally:
        orthanc.stop()


class Terminal:
    """`dicom-node init` on a terminal of its own."""

    def __init__(self, *arguments, folder):
        self._master, slave = pty.openpty()
        command = [sys.executable, "-m", "dicom_node", "init", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd=folder, start_new_session=True,
            env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
        )  # fmt: skip
        os.close(slave)
        self._read = ""

    def expect(self, text, seconds=60):
        """What it says up to that text."""
        end = time.monotonic() + seconds
        while text not in self._read:
            ready, _, _ = select.select([self._master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} did not come: {self._read!r}"
            try:
                self._read += os.read(self._master, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"ended without {text!r}: {self._read!r}") from None
        before, _, self._read = self._read.partition(text)
        return before

    def say(self, *lines):
        os.write(self._master, "".join(f"{line}\n" for line in lines).encode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)


def test_each_answer_is_checked_as_it_comes_and_asked_again_or_kept(place):
    with Terminal(place.file, *place.itself, folder=place.folder) as terminal:
        terminal.expect("1 of 5  Who sends images?")
        terminal.say("TOO_LONG_TO_BE_AN_AE_TITLE")
        terminal.expect("! an AE title has 1 to 16")
        terminal.say("PACS@127.0.0.1, MODALITY@127.0.0.1")
        terminal.expect("2 of 5  TLS or not?")
        terminal.say("n")
        terminal.expect("3 of 5  Where do results go?")
        terminal.say(f"PACS@127.0.0.1:{free_port()}")
        assert "! no association: the destination does not answer" in terminal.expect("Keep it all the same?")
        terminal.say("n", place.pacs)
        terminal.expect("4 of 5  Where does the spool lie?")
        terminal.say("var/spool", place.spool)
        assert "! var/spool: give a whole path" in terminal.expect("5 of 5  Which GPU?")
        terminal.say("cuda:99")
        terminal.expect("Keep it all the same?")
        terminal.say("y")
        said = terminal.expect(f"dicom-node worker --config {place.file}")
        assert "still wrong: --device: " in said
        assert terminal.process.wait(60) == 0
    settings = load_settings(place.file, {})
    assert settings.node.calling_ae_titles == ("PACS@127.0.0.1", "MODALITY@127.0.0.1")
    assert (settings.model.device, settings.node.spool) == ("cuda:99", place.spool)
    assert f"PACS@127.0.0.1:{settings.destinations[0].port}" == place.pacs


def test_what_is_killed_in_the_middle_has_written_nothing(place):
    with Terminal(place.file, *place.itself, folder=place.folder) as terminal:
        terminal.expect("1 of 5")
        terminal.say("PACS@127.0.0.1", "n", place.pacs)
        terminal.expect("4 of 5")
        os.killpg(terminal.process.pid, signal.SIGKILL)
        assert terminal.process.wait(60) == -signal.SIGKILL
    assert list(place.folder.iterdir()) == []


def test_a_file_that_is_there_is_written_over_only_by_who_says_so(place):
    place.file.write_text("mine")
    with Terminal(*place.words(), "--no-tls", folder=place.folder) as terminal:
        terminal.expect("is there already. Write over it? [y/N]")
        terminal.say("n")
        assert terminal.process.wait(60) == 1
    assert place.file.read_text() == "mine"
