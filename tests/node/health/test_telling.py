"""E-mail and webhooks to real servers: what they get, how they are believed, and what a bad one costs."""

import hashlib
import hmac
import json
import ssl

import pytest
from alarmed import Hook, mail_server, silence
from certificates import Authority
from pydantic import ValidationError
from working import T0, free_port

from dicom_node.errors import ConfigError
from dicom_node.health import telling
from dicom_node.health.alerts import Kind, Message
from dicom_node.settings.loading import load_settings
from dicom_node.settings.monitoring import AlertSettings
from dicom_node.storage.ledger import Noted


def message(kind=Kind.FIRING, name="disk"):
    about = Noted(name=name, level="bad", said="12 MB free: make room", began_at=T0, seen_at=T0)
    return Message(kind=kind, about=about, told_before=None)


def mailing(port, **more):
    values = {
        "smtp_host": "127.0.0.1", "smtp_port": port, "smtp_tls": "none", "from": "node@hospital.example",
        "to": ["admin@hospital.example", "pacs@hospital.example"],
    }  # fmt: skip
    return AlertSettings.model_validate(values | more)


def hooking(url, **more):
    return AlertSettings(webhooks=(url,), **more)


def tell(settings, *messages):
    return telling.tell(settings, "EXPLAIN", "here", messages or [message()], T0)


def test_a_mail_names_what_is_wrong_and_who_says_so():
    with mail_server() as (mailbox, port):
        assert tell(mailing(port), message(), message(Kind.OVER, "queue"), message(Kind.AGAIN, "redis")) == []
    (got,) = mailbox.messages
    assert got["Subject"] == "[EXPLAIN] disk, queue, redis"
    assert got["To"] == "admin@hospital.example, pacs@hospital.example"
    assert got["Auto-Submitted"] == "auto-generated"
    text = got.get_content()
    assert "bad: disk, since 2026-03-01 12:00 UTC\n  12 MB free: make room" in text.replace("\r\n", "\n")
    assert "over: queue" in text
    assert "bad, still: redis" in text
    assert "node EXPLAIN on here" in text


def test_a_password_travels_over_starttls_to_a_server_that_is_known(tmp_path):
    authority = Authority(tmp_path)
    files = authority.issue("mail")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    more = {"smtp_tls": "starttls", "smtp_user": "explain", "smtp_password_file": str(secret)}
    with mail_server(password="correct horse", tls_context=context) as (mailbox, port):  # noqa: S106
        with pytest.raises(telling.Untold, match="SSLCertVerificationError"):
            tell(mailing(port, **more))
        known = more | {"smtp_authorities": str(authority.path)}
        tell(mailing(port, **known))
        secret.write_text("wrong")
        with pytest.raises(telling.Untold, match=r"refused it \(SMTP 535\)"):
            tell(mailing(port, **known))
        secret.write_text("")
        with pytest.raises(telling.Untold, match="is empty"):
            tell(mailing(port, **known))
    assert len(mailbox.messages) == 1


def test_a_webhook_is_signed_and_does_not_follow_anybody(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("key\n")
    with Hook() as hook:
        assert tell(hooking(hook.url, webhook_secret_file=secret)) == []
        hook.status = 302
        with pytest.raises(telling.Untold) as caught:
            tell(hooking(hook.url))
    assert str(caught.value) == "webhook: 127.0.0.1 refused it (HTTP 302)", "the path may be a secret"
    (path, headers, content), _ = hook.posts
    assert path == "/hook/secret-path"
    assert headers[telling.SIGNATURE] == "sha256=" + hmac.new(b"key", content, hashlib.sha256).hexdigest()
    told = json.loads(content)
    assert (told["node"], told["host"]) == ("EXPLAIN", "here")
    assert told["alerts"] == [
        {"name": "disk", "state": "firing", "level": "bad", "said": "12 MB free: make room", "since": T0.isoformat()}
    ]


def test_a_server_that_hangs_or_is_away_costs_seconds(monkeypatch):
    monkeypatch.setattr(telling, "SECONDS", 0.2)
    with silence() as port:
        for settings in (
            mailing(port), mailing(port, smtp_tls="tls"), mailing(free_port()),
            hooking(f"http://127.0.0.1:{port}/"), hooking(f"http://127.0.0.1:{free_port()}/"),
        ):  # fmt: skip
            with pytest.raises(telling.Untold, match="did not take it"):
                tell(settings)


def test_one_way_that_works_is_enough_and_the_other_is_named():
    with mail_server() as (mailbox, port):
        settings = mailing(port, webhooks=[f"http://127.0.0.1:{free_port()}/"])
        (failure,) = tell(settings)
        assert failure.startswith("webhook: 127.0.0.1 did not take it")
    assert len(mailbox.messages) == 1


def test_what_a_server_says_is_not_repeated():
    with mail_server() as (_, port), pytest.raises(telling.Untold) as caught:
        tell(mailing(port, to=["x@nowhere.example"]))
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://hooks.example/x", "ftp://127.0.0.1/", "https://me:pw@hooks.example/", "x"])
def test_a_webhook_is_https_or_on_this_machine(url):
    with pytest.raises(ValidationError):
        hooking(url)
    assert hooking("https://hooks.example/x").wanted
    assert hooking("http://localhost:8080/x").wanted


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('smtp_host = "mail"\nfrom = "a@b"', "alerts.to: name at least one address"),
        ('smtp_host = "mail"\nto = ["a@b"]', "alerts.from: set the address"),
        ('to = ["a@b"]', "alerts.smtp_host: set the mail server"),
        ('smtp_user = "x"', "alerts.smtp_user: set smtp_user and smtp_password_file"),
        ('webhook_secret_file = "x"', "alerts.webhook_secret_file: has no use without webhooks"),
        (
            'smtp_host = "m"\nto = ["a@b"]\nfrom = "a@b"\nsmtp_user = "x"\nsmtp_password_file = "y"\nsmtp_tls = "none"',
            "alerts.smtp_tls: must not be none with a password",
        ),
    ],
)
def test_settings_that_tell_nobody_are_refused(tmp_path, lines, words):
    config = tmp_path / "node.toml"
    config.write_text(f"[alerts]\n{lines}\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(config, {})
    assert words in str(caught.value)
