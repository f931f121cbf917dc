"""compose.yaml: the schema of Compose, settings that load, and networks on which only what must be reached is."""

import json
import re
import shutil
import stat
import subprocess

import pytest
import redis
import yaml
from compose_spec import PyCompose
from deployed import DEPLOY, kept, names_a_registry, stages
from working import free_port, redis_program, wait_for

from dicom_node import app
from dicom_node.settings.loading import FILE_SUFFIX, load_settings

FILE = DEPLOY / "compose.yaml"


def filled_in(text):
    """With the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def loaded(path):
    return {key: value for key, value in yaml.safe_load(filled_in(path.read_text())).items() if key[:2] != "x-"}


COMPOSE = loaded(FILE)
SERVICES = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if one["image"].startswith("dicom-explanation-node:")}
NODES = {name: one for name, one in OURS.items() if name != "ohif"}


@pytest.mark.parametrize("path", [FILE, DEPLOY / "compose.gpu.yaml"], ids=lambda one: one.name)
def test_it_is_what_the_specification_knows(path):
    PyCompose.from_json(json.dumps(loaded(path))).to_spec()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("restart: unless-stopped", "restrat: unless-stopped"),
        ("condition: service_healthy", "condition: service_healthyy"),
        ('"127.0.0.1:8112:8112"', '"127.0.0.1:8112:80:12"'),
        ("memory: 512m", "memroy: 512m"),
    ],
)
def test_what_the_specification_does_not_know_is_refused(old, new):
    text = FILE.read_text()
    assert old in text
    with pytest.raises(ValueError, match=r"\w"):
        PyCompose.from_json(json.dumps(yaml.safe_load(filled_in(text.replace(old, new)))))


def test_every_role_that_serves_has_a_service_and_so_do_workers():
    run = {one["command"][2] for one in NODES.values() if one.get("command", [])[:2] == ["serve", "--only"]}
    assert run == {*app.SERVE, "worker"}


def test_images_are_built_from_targets_that_are_there_and_name_no_registry():
    for one in SERVICES.values():
        assert not names_a_registry(one["image"])
        assert ":" in one["image"], "a version is named"
    for one in [*OURS.values(), *loaded(DEPLOY / "compose.gpu.yaml")["services"].values()]:
        build = one["build"]
        file = DEPLOY.parent / build.get("dockerfile", "deploy/containers/Containerfile")
        assert build.get("target", "") in stages(file)


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "orthanc"])
def test_a_service_may_change_nothing_but_its_volumes(name):
    one = SERVICES[name]
    assert (one["read_only"], one["cap_drop"]) == (True, ["ALL"])
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in one
    assert not {"cap_add", "network_mode", "pid", "ipc", "devices"} & one.keys()


def test_ledger_and_queue_are_reached_by_the_node_alone():
    assert COMPOSE["networks"]["data"] == {"internal": True}
    for name in ("redis", "postgres"):
        assert SERVICES[name]["networks"] == ["data"]
        assert "ports" not in SERVICES[name]
    assert {name for name, one in SERVICES.items() if "data" in one["networks"]} == {*NODES, "redis", "postgres"}
    for name in ("worker", "dispatcher", "retention", "migrate"):
        inside = [one for one in SERVICES[name]["networks"] if COMPOSE["networks"][one].get("internal")]
        assert SERVICES[name]["networks"] == inside, "nothing to do outside"


def test_other_machines_reach_the_dicom_port_alone():
    published = {name: port for name, one in SERVICES.items() for port in one.get("ports", [])}
    assert published.pop("listener") == "11112:11112"
    assert published
    for port in published.values():
        assert port.startswith("127.0.0.1:")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "secrets"
    for _ in range(2):
        subprocess.run([DEPLOY / "compose" / "make-secrets.sh", folder], check=True, capture_output=True)
    return folder


def test_every_secret_is_made_and_stays(secrets):
    named = {one["file"].removeprefix("./compose/secrets/") for one in COMPOSE["secrets"].values()}
    made = {one.name: one.read_text() for one in secrets.iterdir()}
    assert named <= made.keys()
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    subprocess.run([DEPLOY / "compose" / "make-secrets.sh", secrets], check=True, capture_output=True)
    assert {one.name: one.read_text() for one in secrets.iterdir()} == made
    passwords = [made[f"{name}_password"] for name in ("database", "redis", "orthanc", "grafana")]
    assert len(set(passwords)) == len(passwords)
    assert all(re.fullmatch("[0-9a-f]{48}", one) for one in passwords)
    assert json.loads(made["orthanc-users.json"])["RegisteredUsers"] == {"admin": made["orthanc_password"]}
    for one in SERVICES.values():
        assert set(map(str, one.get("environment", {}).values())).isdisjoint(made.values())


def settings_of(name, secrets):
    """What a service's process reads."""
    environment = dict(NODES[name]["environment"])
    for key, value in environment.items():
        if key.endswith(FILE_SUFFIX):
            file = COMPOSE["secrets"][value.removeprefix("/run/secrets/")]["file"]
            environment[key] = str(secrets / file.rsplit("/", 1)[1])
    return load_settings(DEPLOY / "compose" / "node.toml", environment)


@pytest.mark.parametrize("name", NODES)
def test_a_service_has_settings_that_load_and_lie_on_its_volume(name, secrets):
    settings = settings_of(name, secrets)
    assert settings.node.database.startswith("postgresql+psycopg://node:")
    assert "@postgres:5432/node" in settings.node.database
    assert settings.broker.url.endswith("@redis:6379/0")
    places = dict(kept(settings))
    assert str(places.pop("metrics.folder")) == "/tmp/metrics", "never one folder for two containers"  # noqa: S108
    assert settings.metrics.port == 9112
    assert {"node.spool", "model.store", "audit.folder"} <= places.keys()
    assert [key for key, path in places.items() if not str(path).startswith("/var/lib/dicom-node/")] == []
    assert settings.registry.uri.startswith("sqlite:////var/lib/dicom-node/")
    assert "state:/var/lib/dicom-node" in NODES[name]["volumes"]
    assert set(NODES[name]["secrets"]) == {"database_url", "broker_url"}


def test_a_worker_has_time_to_finish_its_study(secrets):
    minutes = int(SERVICES["worker"]["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 > settings_of("worker", secrets).broker.hard_time_limit


def test_every_role_waits_for_the_schema():
    for name, one in NODES.items():
        if name != "migrate":
            assert one["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert SERVICES["migrate"]["command"] == ["migrate"]


def test_the_pacs_and_the_node_know_each_other(secrets):
    pacs = json.loads((DEPLOY / "compose" / "orthanc.json").read_text())
    settings = settings_of("listener", secrets)
    node, (destination,) = pacs["DicomModalities"]["explain"], settings.destinations
    assert (node["AET"], node["Host"], node["Port"]) == (settings.node.ae_title, "listener", settings.node.port)
    assert settings.node.calling_ae_titles == (pacs["DicomAet"],)
    assert (destination.ae_title, destination.host, destination.port) == (
        pacs["DicomAet"],
        "orthanc",
        pacs["DicomPort"],
    )


def test_what_is_mounted_is_there():
    mounted = {volume.split(":")[0] for one in SERVICES.values() for volume in one.get("volumes", [])}
    files = {DEPLOY / one for one in mounted if one.startswith("./")}
    assert DEPLOY / "compose" / "node.toml" in files
    missing = [one.relative_to(DEPLOY) for one in files if not one.exists()]
    assert [one for one in missing if (DEPLOY / one.parts[0]).exists() and len(one.parts) > 1] == []
    if missing:
        pytest.skip(f"of deploy/ {', '.join(sorted(one.parts[0] for one in missing))} are not there")


@pytest.mark.external
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_takes_its_configuration_and_asks_every_role(tmp_path):
    mounts = [one.split(":") for one in SERVICES["prometheus"]["volumes"] if one.startswith("./")]
    for source, target, _ in mounts:
        shutil.copy(DEPLOY / source, tmp_path / target.rsplit("/", 1)[1])
    subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yml"], check=True, capture_output=True)
    jobs = yaml.safe_load((tmp_path / "prometheus.yml").read_text())["scrape_configs"]
    (asked,) = [one for job in jobs for one in job.get("dns_sd_configs", [])]
    assert {*asked["names"], "web"} == {*app.SERVE, "worker"}
    assert all("metrics" in SERVICES[name]["networks"] for name in [*asked["names"], "web", "prometheus"])


@pytest.mark.external
def test_redis_takes_its_configuration_and_asks_for_the_password(secrets, tmp_path):
    port = free_port()
    process = subprocess.Popen(
        [redis_program(), secrets / "redis.conf", "--port", str(port), "--bind", "127.0.0.1"],
        cwd=tmp_path, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        password = (secrets / "redis_password").read_text()

        def answers():
            try:
                return redis.Redis(port=port, password=password).ping()
            except redis.ConnectionError:
                return False

        wait_for(answers, what="redis-server")
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
        told = redis.Redis(port=port, password=password, decode_responses=True)
        assert told.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert not list(tmp_path.iterdir()), "nothing is written: its root file system is read-only"
    finally:
        process.kill()
        process.wait()
