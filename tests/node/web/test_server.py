import json
import threading
import time
import urllib.request

import pytest

from dicom_node.errors import ConfigError
from dicom_node.settings.dashboard import WebSettings
from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger import Ledger
from dicom_node.web import server


@pytest.fixture
def node(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    ledger.create()
    return server.Node(settings=Settings(web=WebSettings(port=0)), ledger=ledger)


def test_the_role_answers_until_it_is_stopped(node, monkeypatch):
    ports, stop = [], threading.Event()
    monkeypatch.setattr(server.log, "info", lambda _, **told: ports.append(told["port"]))
    role = threading.Thread(target=server.run, args=(node, stop))
    role.start()
    try:
        while not ports:
            time.sleep(0.01)
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/health/live", timeout=10) as answer:
            assert json.load(answer) == {"status": "live"}
    finally:
        stop.set()
        role.join(10)
    assert not role.is_alive()


def test_a_port_that_is_taken_is_told_with_its_setting(node):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        chosen = WebSettings(port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match=r"web\.port: 127\.0\.0\.1:\d+ cannot be used"):
            server.run(server.Node(settings=Settings(web=chosen), ledger=node.ledger), threading.Event())
