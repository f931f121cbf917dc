"""`dicom-node alert`: a test that reaches people, and what needs one now."""

import json

import pytest
from alarmed import Hook, mail_server
from typer.testing import CliRunner
from working import T0, free_port

from dicom_node.cli import app
from dicom_node.storage.ledger import Ledger, Noted


@pytest.fixture
def alert(tmp_path):
    def run(command, settings="", *more):
        config = tmp_path / "node.toml"
        config.write_text(f'[node]\ndatabase = "sqlite:///{tmp_path}/ledger.sqlite"\n[alerts]\n{settings}\n')
        return CliRunner().invoke(app, ["alert", command, "--config", str(config), *more])

    return run


def test_a_test_alert_reaches_everybody(alert):
    with mail_server() as (mailbox, port), Hook() as hook:
        done = alert(
            "test",
            f'smtp_host = "127.0.0.1"\nsmtp_port = {port}\nsmtp_tls = "none"\nfrom = "a@b"\nto = ["c@d"]\n'
            f'webhooks = ["{hook.url}"]',
        )
    assert (done.exit_code, done.output) == (0, "sent\n")
    assert "nothing is wrong" in mailbox.messages[0].get_content()
    assert json.loads(hook.posts[0][2])["alerts"][0]["name"] == "test"


def test_a_server_that_does_not_take_it_is_named(alert):
    done = alert("test", f'webhooks = ["http://127.0.0.1:{free_port()}/"]')
    assert done.exit_code == 1
    assert done.output == "error: webhook: 127.0.0.1 did not take it (ConnectError)\n"


def test_nobody_to_tell_is_wrong_use(alert):
    done = alert("test")
    assert done.exit_code == 2
    assert "alerts: nobody is told; set alerts.smtp_host or alerts.webhooks" in done.output


def test_what_needs_a_person_is_listed(alert, tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    ledger.create()
    assert alert("list").exit_code == 0
    ledger.note([Noted(name="disk", level="bad", said="full", began_at=T0, seen_at=T0)])
    ledger.close()
    done = alert("list", "", "--json")
    assert done.exit_code == 1
    assert [one["name"] for one in json.loads(done.output)] == ["disk"]
    assert "not yet" in alert("list").output
