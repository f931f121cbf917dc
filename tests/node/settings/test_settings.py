"""Settings: one file, one environment, and one line that says what is wrong and where."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from dicom_node.errors import ConfigError
from dicom_node.nouns import Destination, WebDestination
from dicom_node.settings.answers import DestinationSettings
from dicom_node.settings.loading import load_settings
from dicom_node.settings.rule_tables import result_names
from dicom_node.settings.sections import Settings
from explain_core import plugins

SHIPPED = Path(__file__).parents[3] / "deploy" / "dicom-node.toml"
LINES = SHIPPED.read_text().splitlines()
DESTINATION = '[[destinations]]\nname = "a"\nae_title = "A"\nhost = "h"\nport = 1'
TLS = '[tls]\ncertificate = "a"\nkey = "b"\nauthorities = "c"\n'
WEB = '[[destinations]]\nname = "a"\nurl = "https://x/dicom-web"'
TOKEN = 'token_url = "https://x/t"\nclient_id = "me"\nclient_secret_file = "f"'  # noqa: S105
PLAIN = '[{"name": "a", "ae_title": "A", "host": "h", "port": 1}]'
KEY_LINES = [
    (number, match[1]) for number, line in enumerate(LINES, start=1) if (match := re.match(r"([a-z_]+) = ", line))
]


def wrong(tmp_path, text, env=None):
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(file, env or {})
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(file), "node.toml")


def test_defaults():
    settings = load_settings(None, {})
    assert settings.node.ae_title == "EXPLAIN"
    assert settings.node.calling_ae_titles == ()
    assert not settings.node.accept_any_calling_ae
    assert settings.study.quiet.total_seconds() == 10
    assert [rule.name for rule in settings.rules][-1] == "other-modality"
    assert settings == Settings()


def test_environment_wins_over_file_wins_over_default(tmp_path):
    file = tmp_path / "node.toml"
    file.write_text('[node]\nport = 1\nae_title = "FILE"\n')
    env = {
        "DICOM_NODE_NODE__PORT": "2",
        "DICOM_NODE_NODE__CALLING_AE_TITLES": "CT1, PACS",
        "DICOM_NODE_LOGGING__JSON": "true",
        "DICOM_NODE_DESTINATIONS": '[{"name": "p", "ae_title": "P", "host": "h", "port": 3}]',
        "DICOM_NODE_CONFIG": "not a setting",
        "OTHER": "x",
    }
    settings = load_settings(file, env)
    assert (settings.node.port, settings.node.ae_title, settings.node.host) == (2, "FILE", "127.0.0.1")
    assert settings.node.calling_ae_titles == ("CT1", "PACS")
    assert settings.logging.as_json is True
    assert settings.destination("p").port == 3
    assert next(one for one in settings.rules if one.name == "chest-frontal").route.destinations == ("p",)


def test_frozen():
    with pytest.raises(ValidationError):
        load_settings(None, {}).node.port = 1


COMMENTED = {
    "calling_ae_titles", "bundle", "augmentations", "institution", "timezone", "destinations", "rules",
    "clean_below_mb", "commitment_peers", "seal_key", "syslog_host", "syslog_ca", "syslog_certificate", "syslog_key",
    "web.certificate", "web.key",
    "to", "from", "smtp_host", "smtp_authorities", "smtp_user", "smtp_password_file", "webhooks", "webhook_secret_file",
    "endpoint", "metrics.port",
    *(f"tls.{key}" for key in ("certificate", "key", "authorities", "revocations")),
    *(f"store.{key}" for key in ("url", "endpoint", "region", "authorities")),
}  # fmt: skip
"""Keys whose value in the shipped file is no default."""


def test_the_shipped_file_has_every_key_with_its_default(tmp_path):
    text = re.sub(r"(?m)^# (?=[a-z_]+ = |\[\[|  \{|\])", "", SHIPPED.read_text())
    shipped = tomllib.loads(text)

    def check(model: type[BaseModel], table, path):
        for name, field in model.model_fields.items():
            key = field.alias or name
            if key in {"equals", "in", "regex", "missing", "tag"}:
                continue
            assert key in table, f"{path}{key} is missing from the shipped file"
            if isinstance(table[key], dict):
                check(type(field.default), table[key], f"{path}{key}.")
            elif COMMENTED.isdisjoint({key, f"{path}{key}"}):
                default = [*field.default] if isinstance(field.default, tuple) else field.default
                assert table[key] == (str(default) if isinstance(default, Path) else default), f"{path}{key}"
        assert set(table) <= {field.alias or name for name, field in model.model_fields.items()}

    check(Settings, shipped, "")
    assert {key for one in shipped["destinations"] for key in one} == set(DestinationSettings.model_fields)
    assert load_settings(SHIPPED, {}).destination("pacs").port == 104
    file = tmp_path / "all.toml"
    file.write_text(text)
    everything = load_settings(file, {})
    assert [rule.name for rule in everything.rules] == ["portable", "chest"]
    assert everything.destinations[0].compression == "jpeg-ls"


COMMITTING = f"{DESTINATION}\ncommitment = true\n"
PEER = '[[commitment_peers]]\nae_title = "CT"\nhost = "h"\nport = 2\n'


def test_who_is_to_commit_must_be_heard(tmp_path):
    assert wrong(tmp_path, COMMITTING) == (
        "node.toml:6: destinations.0.commitment: add 'A' to node.calling_ae_titles: it calls this node to say what it "
        "has committed to"
    )
    file = tmp_path / "node.toml"
    for heard in ('calling_ae_titles = ["A"]', "accept_any_calling_ae = true"):
        file.write_text(f"[node]\n{heard}\n{COMMITTING}")
        assert load_settings(file, {}).destination("a").commitment
    file.write_text(DESTINATION)
    assert not load_settings(file, {}).destination("a").commitment


def test_a_peer_that_asks_is_found_by_its_ae_title(tmp_path):
    file = tmp_path / "node.toml"
    file.write_text(f"{PEER}{DESTINATION}\n")
    settings = load_settings(file, {})
    assert [settings.commitment_peer(title).port for title in ("CT", "A")] == [2, 1]
    assert settings.commitment_peer("OTHER") is None
    assert "commitment_peers.1.ae_title: used twice" in wrong(tmp_path, PEER + PEER)


def test_a_destination_is_reached_over_dicom_or_over_dicomweb(tmp_path):
    file = tmp_path / "node.toml"
    other = WEB.replace('"a"', '"b"').replace('web"', 'web/"')
    file.write_text(f"{DESTINATION}\n{other}\n{TOKEN}")
    settings = load_settings(file, {})
    assert settings.destination("a") == Destination(name="a", ae_title="A", host="h", port=1, tls_name="h")
    assert settings.destination("b") == WebDestination(
        name="b",
        url="https://x/dicom-web",
        token_url="https://x/t",  # noqa: S106
        client_id="me",
        client_secret_file=Path("f"),
    )


def test_a_destination_says_only_what_differs(tmp_path):
    file = tmp_path / "node.toml"
    file.write_text(f'{DESTINATION}\nobjects = ["overlay"]\nexplain = "positives"\n')
    (one,) = load_settings(file, {}).destinations
    assert (one.objects, one.explain) == (("overlay",), "positives")
    assert (one.long_edge, one.compression, one.synthetic_images) == (None, None, False)
    (other,) = load_settings(None, {"DICOM_NODE_DESTINATIONS": PLAIN}).destinations
    assert (other.objects, other.synthetic_images) == (None, False)


def test_a_destination_has_the_files_of_tls_and_its_own_name_and_authorities(tmp_path):
    file = tmp_path / "node.toml"
    more = '\ntls = true\ntls_authorities = "d"\ntls_name = "n"'
    file.write_text(f"{TLS}{DESTINATION}\ntls = true\n{DESTINATION}{more}\n{DESTINATION}".replace('"a"', "'a'"))
    file.write_text(file.read_text().replace("name = 'a'", 'name = "b"', 1).replace("name = 'a'", 'name = "c"', 1))
    settings = load_settings(file, {})
    files = settings.tls.files
    assert [settings.destination(name).tls for name in "bca"] == [files, replace(files, authorities=Path("d")), None]
    assert [settings.destination(name).tls_name for name in "bca"] == ["h", "n", "h"]
    assert settings.tls.serves
    assert not Settings().tls.serves


def test_every_result_object_can_be_wanted(tmp_path):
    file = tmp_path / "node.toml"
    wanted = [name for name in result_names() if name not in {"synthetic_images", "morphs"}]
    file.write_text(f"{DESTINATION}\nobjects = {wanted}\nsynthetic_images = true\n")
    assert load_settings(file, {}).destinations[0].objects == tuple(wanted)


@given(st.sampled_from(KEY_LINES), st.data())
def test_a_misspelt_key_is_named_with_its_line(tmp_path_factory, place, data):
    number, key = place
    position = data.draw(st.integers(min_value=1, max_value=len(key) - 1))
    misspelt = f"{key[:position]}x{key[position:]}"
    lines = [*LINES]
    lines[number - 1] = lines[number - 1].replace(key, misspelt, 1)
    message = wrong(tmp_path_factory.mktemp("c"), "\n".join(lines))
    # A required key that is gone is reported too; whichever comes first, the line is that of its table or itself.
    assert re.match(rf"node\.toml:{number}: [a-z0-9_.]+{misspelt}: unknown key; did you mean {key}\?", message) or (
        key in {"name", "ae_title", "host", "port"} and message.endswith(f"{key}: add this key")
    )


@given(st.sampled_from(KEY_LINES))
def test_a_wrong_value_is_named_with_its_line(tmp_path_factory, place):
    number, key = place
    lines = [*LINES]
    lines[number - 1] = f"{key} = {{ nonsense = 1 }}"
    message = wrong(tmp_path_factory.mktemp("c"), "\n".join(lines))
    assert re.match(rf"node\.toml:{number}: [a-z0-9_.]+: ", message)
    assert key in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[node]\nport = 70000", r"node.toml:2: node.port: should be less than or equal to 65535"),
        ('[destinations]\nname = "a"\n', r"node.toml:1: destinations: is a list of tables: write [[destinations]], in"),
        ("[node]\ncalling_ae_titles = 1\n", r"node.toml:2: node.calling_ae_titles: should be a list, in brackets: ["),
        ("[nodes]\n", r"node.toml:1: nodes: unknown key; did you mean node?"),
        ('[node]\n\nae_title = "SEVENTEEN LETTERS"', "node.toml:3: node.ae_title: an AE title has 1 to 16"),
        ("[node]\nport = = 1\n", "node.toml:2: not valid TOML"),
        ('[node]\nhost = "a\n', "node.toml:2: not valid TOML"),
        ('[results]\nmanufacturer = """\nlong_edge = 9"""\nlong_edge = 9', "node.toml:4: results.long_edge: should be"),
        ("[broker]\nsoft_time_limit = 900", "node.toml:2: broker.soft_time_limit: must be less than"),
        ("[broker]\nvisibility_timeout = 900\n", "node.toml:2: broker.visibility_timeout: must be more than"),
        ("[broker]\n# a comment\nlease_seconds = 0", "node.toml:3: broker.lease_seconds: "),
        ('[broker]\nurl = "http://x"', "node.toml:2: broker.url: "),
        ("[study]\nmax_seconds = 5", "node.toml:2: study.max_seconds: must not be less"),
        ('[results]\nobjects = ["hologram"]', "node.toml:2: results.objects.0: no such result object; there is: "),
        ("[results]\nobjects = []", "node.toml:2: results.objects: name at least one result object, or remove"),
        (
            '[results]\nmethods = ["guess"]',
            "node.toml:2: results.methods: there is no explanation method guess; there is: ",
        ),
        (
            "[results]\nmethods = []",
            "node.toml:2: results.methods: name at least one explanation method, and each once",
        ),
        (
            '[results]\nmethods = ["bbmp", "bbmp"]',
            "node.toml:2: results.methods: name at least one explanation method,",
        ),
        (
            f'{DESTINATION}\nmethods = ["guess"]',
            "node.toml:6: destinations.0.methods: there is no explanation method g",
        ),
        ('[model]\nmethod_folders = ["nowhere"]', "node.toml:2: model.method_folders.0: nowhere is no folder"),
        ('[results]\nobjects = ["synthetic_images"]', "node.toml:2: results.objects: synthetic_images are sent only"),
        (f"{DESTINATION}\nobjects = []", "node.toml:6: destinations.0.objects: name at least one result object"),
        (f'{DESTINATION}\nobjects = ["synthetic_images"]', "node.toml:6: destinations.0.objects: synthetic_images are"),
        (f'{DESTINATION}\nobjects = ["hologram"]', "node.toml:6: destinations.0.objects.0: no such result object"),
        (f'{DESTINATION}\ncompression = "zip"', "node.toml:6: destinations.0.compression: should be 'none', 'rle'"),
        (f'{DESTINATION}\nexplain = "never"', "node.toml:6: destinations.0.explain: should be 'always' or"),
        (f"{DESTINATION}\nlong_edge = 100", "node.toml:6: destinations.0.long_edge: should be greater than or"),
        (f"{DESTINATION}\nsynthetic_images = 3", "node.toml:6: destinations.0.synthetic_images: should be a valid"),
        (f"{DESTINATION}\nsynthetic = true", "node.toml:6: destinations.0.synthetic: unknown key; did you mean synth"),
        (
            '[node]\ncalling_ae_titles = ["PACS@10.1.2.3/16"]',
            "node.toml:2: node.calling_ae_titles.0: after the @ stands an address or a network, such as 10.1.0.0/16",
        ),
        ('[node]\ncalling_ae_titles = ["PACS@pacs.example"]', "node.toml:2: node.calling_ae_titles.0: after the @"),
        ('[node]\ncalling_ae_titles = ["@10.1.2.3"]', "node.toml:2: node.calling_ae_titles.0: an AE title has 1 to"),
        ('[tls]\ncertificate = "a"\nauthorities = "c"', "node.toml:2: tls.certificate: set key too"),
        ('[tls]\nkey = "a"', "node.toml:2: tls.key: set certificate too"),
        ('[tls]\ncertificate = "a"\nkey = "b"', "node.toml:2: tls.certificate: set authorities too"),
        ('[tls]\nrevocations = "a"', "node.toml:2: tls.revocations: set authorities too"),
        (f"{TLS}port = 11112", "node.toml:5: tls.port: is node.port; choose another"),
        ("[node]\nplain = false", "node.toml:2: node.plain: nobody could send: set tls.certificate"),
        (f"{TLS}listen = false\n[node]\nplain = false", "node.toml:7: node.plain: nobody could send"),
        (f"{DESTINATION}\ntls = true", "node.toml:6: destinations.0.tls: set tls.authorities, or tls_authorities here"),
        (f'{DESTINATION}\ntls_name = "x"', "node.toml:6: destinations.0.tls_name: has no use without tls = true"),
        (
            '[[destinations]]\nname = "a"\nae_title = "A"\nhost = "h"',
            "node.toml:1: destinations.0: a destination needs a",
        ),
        (
            f'{DESTINATION}\nurl = "https://x/y"',
            "node.toml:1: destinations.0: either DICOM (ae_title, host, port) or DIC",
        ),
        (
            f'{DESTINATION}\nproxy = "environment"',
            "node.toml:1: destinations.0: proxy belongs to DICOMweb: add url, or",
        ),
        (f'{WEB}\nclient_id = "x"', "node.toml:1: destinations.0: client credentials need a token_url"),
        (f'{WEB}\ntoken_url = "https://x/t"', "node.toml:1: destinations.0: a token_url needs client_id and one of"),
        (f'{WEB}\n{TOKEN}\nclient_secret_variable = "X"', "node.toml:1: destinations.0: a token_url needs client_id"),
        (f"{WEB.replace('https', 'http')}\n{TOKEN}", "node.toml:1: destinations.0: secrets and tokens go over https"),
        (f'{WEB}\nkey = "k.pem"', "node.toml:1: destinations.0: a key needs its certificate"),
        (f'{WEB}\nproxy = "http://me:secret@p"', "node.toml:4: destinations.0.proxy: put no user name and no password"),
        (WEB.replace("https:", "ftp:"), "node.toml:3: destinations.0.url: use a URL such as https://pacs.example.org/"),
        (f'{WEB[:-1]}?key=secret"', "node.toml:3: destinations.0.url: a URL here has no ? and no #"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, text, message):
    assert wrong(tmp_path, text).startswith(message)


def test_methods_of_a_folder_are_known_without_being_loaded_and_may_hide_none(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "of_ours.py").write_text("raise RuntimeError\n")
    text = f'[model]\nmethod_folders = ["{folder}"]\n[results]\nmethods = ["of_ours", "gradient"]\n'
    file = tmp_path / "node.toml"
    file.write_text(text)
    assert load_settings(file, {}).results.methods == ("of_ours", "gradient")
    assert "of_ours" not in plugins.available(plugins.METHODS), "nothing is added to the process"
    (folder / "gradient.py").write_text("")
    assert "model.method_folders.0: explain_core.methods already has gradient; rename the file" in wrong(tmp_path, text)


def test_the_methods_of_destinations_are_one_list_in_one_order():
    made = Settings.model_validate(
        {
            "results": {"methods": "b, a"},
            "destinations": [
                {"name": name, "ae_title": "X", "host": "h", "port": 1} | ({"methods": own} if own else {})
                for name, own in (("one", None), ("two", "c, a"), ("three", "d"))
            ],
        }
    )
    assert made.methods() == ("b", "a", "c", "d")
    assert made.methods_for() == ("b", "a", "c", "d")
    assert made.methods_for(["two", "three"]) == ("a", "c", "d")
    assert made.methods_for(["three"]) == ("d",)
    assert made.methods_for([]) == ("b", "a")
    assert Settings().methods() == Settings().methods_for() == ("similar_adversarial",)


RULES = """
[[rules]]
name = "first"
action = "explain"
when = [
  { tag = "Modality", equals = "CR" },
  { tag = "BodyPartExamined", equals = "CHEST" },
]

[[rules]]
name = "second"
action = "ignore"
reason = "no"
when = [{ tag = "CallingAETitle", in = ["A"] }]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('tag = "BodyPartExamined"', 'tag = "BodyPortion"', "node.toml:7: rules.0.when.1.tag: use the DICOM keyword"),
        ('tag = "BodyPartExamined", equals', 'tag = "BodyPartExamined", equal', "rules.0.when.1"),
        ('"Modality", equals = "CR"', '"Modality", regex = "("', "node.toml:6: rules.0.when.0.regex: not a regular"),
        ('"Modality", equals = "CR"', '"Modality"', "rules.0.when.0: a condition has exactly one of"),
        ('in = ["A"]', 'in = ["A"], equals = "B"', "node.toml:14: rules.1.when.0: a condition has exactly one"),
        ('reason = "no"\n', "", "node.toml:10: rules.1: a rule that ignores needs a reason"),
        ('name = "second"', 'name = "first"', "node.toml:11: rules.1.name: used twice"),
        ('action = "explain"', 'action = "explian"', "node.toml:4: rules.0.action: "),
        (
            'action = "explain"',
            'action = "explain"\ndestinations = ["x"]',
            "node.toml:5: rules.0.destinations: unknown",
        ),
        ('"CallingAETitle"', '"Modality.CodeValue"', "node.toml:14: rules.1.when.0.tag: before a dot"),
        ('"CallingAETitle"', '"ViewCodeSequence"', "node.toml:14: rules.1.when.0.tag: use the DICOM keyword"),
    ],
)
def test_wrong_rules_are_located(tmp_path, old, new, message):
    load_settings(None, {})
    assert RULES.count(old) == 1
    assert message in wrong(tmp_path, RULES.replace(old, new))


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("DICOM_NODE_NOD__PORT", "DICOM_NODE_NODE__PORT"),
        ("DICOM_NODE_NODE_PORT", "DICOM_NODE_NODE__PORT"),
        ("DICOM_NODE_LOGGING__JSN", "DICOM_NODE_LOGGING__JSON"),
        ("DICOM_NODE_DESTINATION", "DICOM_NODE_DESTINATIONS"),
    ],
)
def test_a_variable_that_sets_nothing_is_told_what_it_may_have_meant(tmp_path, variable, meant):
    assert wrong(tmp_path, "[node]\n", {variable: "1"}).endswith(f"; did you mean {meant}?")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"DICOM_NODE_NODE__PORT": "many"}, "environment: DICOM_NODE_NODE__PORT: "),
        ({"DICOM_NODE_NODE__PROT": "1"}, "environment: DICOM_NODE_NODE__PROT: no setting has this name, which is DIC"),
        ({"DICOM_NODE_NOD__PORT": "1"}, "environment: DICOM_NODE_NOD__PORT: no setting has this name"),
        ({"DICOM_NODE_NODE_PORT": "1"}, "environment: DICOM_NODE_NODE_PORT: no setting has this name"),
        (
            {"DICOM_NODE_DESTINATIONS": PLAIN.replace("}", ', "nam": 1}')},
            "environment: DICOM_NODE_DESTINATIONS: unknown key",
        ),
        ({"DICOM_NODE_DESTINATIONS": "[{"}, "environment: DICOM_NODE_DESTINATIONS: not valid JSON"),
        ({"DICOM_NODE_DESTINATIONS": "[{}]"}, "environment: DICOM_NODE_DESTINATIONS: add this key"),
        ({"DICOM_NODE_BROKER__SOFT_TIME_LIMIT": "901"}, "environment: DICOM_NODE_BROKER__SOFT_TIME_LIMIT: must be"),
        ({"DICOM_NODE_NODE": "x", "DICOM_NODE_NODE__PORT": "1"}, "environment: DICOM_NODE_NODE__PORT: set the whole"),
    ],
)
def test_wrong_environment_names_the_variable(env, message):
    with pytest.raises(ConfigError) as caught:
        load_settings(None, env)
    assert str(caught.value).startswith(message)


def test_a_variable_may_name_a_file_that_holds_the_value(tmp_path):
    secret = tmp_path / "broker"
    secret.write_text("redis://:word@host:6379/0\n")
    variable = "DICOM_NODE_BROKER__URL__FILE"
    assert load_settings(None, {variable: str(secret)}).broker.url == "redis://:word@host:6379/0"
    with pytest.raises(ConfigError, match=f"{variable}: DICOM_NODE_BROKER__URL is set too"):
        load_settings(None, {variable: str(secret), "DICOM_NODE_BROKER__URL": "redis://other"})
    with pytest.raises(ConfigError, match=f"environment: {variable}: .*/none cannot be read: No such file"):
        load_settings(None, {variable: str(tmp_path / "none")})
    secret.write_text("amqp://:word@host")
    with pytest.raises(ConfigError, match=f"environment: {variable}: ") as caught:
        load_settings(None, {variable: str(secret)})
    assert "word" not in str(caught.value)


def test_the_file_of_the_health_check_is_no_setting():
    assert load_settings(None, {"DICOM_NODE_PULSE": "/run/pulse"}) == load_settings(None, {})


def test_a_password_is_not_repeated(tmp_path):
    assert "secret" not in wrong(tmp_path, '[broker]\nurl = "amqp://u:secret@host"')


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "absent.toml", {})
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_settings(tmp_path / "latin.toml", {})


def test_unknown_destination():
    with pytest.raises(ConfigError, match="no destination 'x'"):
        load_settings(None, {}).destination("x")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("institution", "Universitätsklinikum", "printable ASCII"),
        ("manufacturer", "Société", "printable ASCII"),
        ("timezone", "Berlin", "IANA time zone"),
    ],
)
def test_what_could_not_be_written_as_it_is_meant_is_refused(tmp_path, key, value, words):
    file = tmp_path / "node.toml"
    file.write_text(f'[results]\n{key} = "{value}"\n')
    with pytest.raises(ConfigError, match=f"node.toml:2: results.{key}: .*{words}"):
        load_settings(file, {})
