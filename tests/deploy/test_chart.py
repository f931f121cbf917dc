"""The Helm chart as Helm renders it: what Kubernetes and KEDA know, settings that load, pods that may do no more."""

import functools
import json
import re
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication
from deployed import DEPLOY, ROOT, kept, names_a_registry, stages

from dicom_node import app
from dicom_node.queue import broker
from dicom_node.settings.loading import load_settings
from dicom_node.watch import pulse

CHART = DEPLOY / "helm" / "dicom-explanation-node"
SITE = {
    "settings": {
        "node": {"calling_ae_titles": ["PACS@192.0.2.7"]},
        "destinations": [{"name": "pacs", "ae_title": "PACS", "host": "pacs.example.org", "port": 104}],
        "rules": [
            {"name": "chest", "action": "explain", "when": [{"tag": "Modality", "in": ["CR", "DX"]}]},
        ],
    }
}
GOOD = {
    "defaults": {},
    "a site": SITE,
    "no GPU, no KEDA": {**SITE, "worker": {"gpu": False, "replicas": 3}, "keda": {"enabled": False}},
    "TLS alone": {
        "tlsSecret": "node-tls",
        "settings": {"node": {"plain": False}, "tls": {"revocations": "/x/crl.pem"}},
    },
    "shadow and retraining": {"shadow": {"enabled": True}, "retraining": {"enabled": True}},
    "a spool elsewhere": {
        "persistence": {"existingClaim": "mine"},
        "settings": {"store": {"url": "s3://bucket/node", "endpoint": "https://s3.example.org"}},
        "keda": {"address": "s1:26379,s2:26379", "sentinelMaster": "mymaster"},
        "extraEnvFrom": [{"secretRef": {"name": "s3"}}],
        "extraEnv": [{"name": "DICOM_NODE_LOGGING__LEVEL", "value": "debug"}],
        "networkPolicy": {"workerEgress": [{"ports": [{"port": 443}]}], "dicomFrom": ["192.0.2.0/24"]},
        "image": {"pullSecrets": ["mirror"], "tag": "1.2"},
        "listener": {"service": {"type": "ClusterIP"}},
        "nodeSelector": {"disk": "fast"},
    },
}
PAGE = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "deploy.md").read_text(), flags=re.MULTILINE | re.DOTALL)
GOOD["the page's"] = yaml.safe_load(PAGE[0])
BAD = {
    "unknown key": {"listner": {"replicas": 3}},
    "unknown key below": {"keda": {"maximum": 3}},
    "no listener": {"listener": {"replicas": 0}},
    "two that remove": {"retention": {"replicas": 2}},
    "words for a number": {"sender": {"replicas": "two"}},
    "no port": {"settings": {"node": {"port": 70000}}},
    "a password among the settings": {"settings": {"node": {"database": "postgresql+psycopg://node:word@db/node"}}},
    "the same of the queue": {"settings": {"broker": {"url": "redis://:word@redis"}}},
    "no secret": {"secret": ""},
    "no address": {"keda": {"address": "redis"}},
    "no network": {"networkPolicy": {"dicomFrom": ["PACS"]}},
    "a title too long": {"settings": {"node": {"ae_title": "ABCDEFGHIJKLMNOPQ"}}},
}


@pytest.fixture(scope="module")
def rendered():
    """What Helm says of the chart, then of each set of values."""
    values = [*GOOD.values(), *BAD.values()]
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "deploy" / "render.py", CHART],
        input="".join(json.dumps(one) + "\n" for one in values), capture_output=True, text=True, check=True,
    )  # fmt: skip
    findings, *answers = [json.loads(line) for line in done.stdout.splitlines()]
    return findings, dict(zip([*GOOD, *BAD], answers, strict=True))


@pytest.fixture(params=GOOD)
def manifests(request, rendered):
    """All manifests for one set of good values."""
    answer = rendered[1][request.param]
    assert "manifests" in answer, answer
    files = {name: text for name, text in answer["manifests"].items() if name.endswith(".yaml")}
    found = [one for text in files.values() for one in yaml.safe_load_all(text) if one]
    assert len(found) > 10
    return found


def of_kind(manifests, *kinds):
    return [one for one in manifests if one["kind"] in kinds]


def pods(manifests):
    """Every template of a pod, by the name of its container."""
    templates = [one["spec"]["template"] for one in of_kind(manifests, "Deployment", "Job")]
    return {one["spec"]["containers"][0]["name"]: one for one in templates}


def settings_of(manifests, tmp_path):
    (config,) = of_kind(manifests, "ConfigMap")
    file = tmp_path / "node.toml"
    file.write_text(config["data"]["node.toml"])
    for name, secret in {"database-url": "postgresql+psycopg://node@db/node", "broker-url": "redis://redis/0"}.items():
        (tmp_path / name).write_text(secret)
    told = pods(manifests)["listener"]["spec"]["containers"][0]["env"]
    environment = {
        one["name"]: one["value"].replace("/run/secrets/dicom-node", str(tmp_path))
        for one in told
        if one["name"].startswith("DICOM_NODE_")
    }
    return load_settings(file, environment)


def test_helm_has_nothing_to_say(rendered):
    assert rendered[0] == []


@pytest.mark.parametrize("name", BAD)
def test_values_that_cannot_be_are_refused(rendered, name):
    assert "refused" in rendered[1][name]


@functools.cache
def known(manifest):
    kubernetes_validate.validate(json.loads(manifest), "1.35", strict=True)


@pytest.mark.slow
def test_kubernetes_knows_every_field(manifests):
    theirs = [one for one in manifests if one["apiVersion"] != "keda.sh/v1alpha1"]
    for one in theirs:
        known(json.dumps(one))
    theirs[0]["spce"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        known(json.dumps(theirs[0]))


def test_keda_knows_every_field_and_looks_at_the_queue_of_the_workers(manifests):
    kinds = {"ScaledObject": ScaledObject, "TriggerAuthentication": TriggerAuthentication}
    for one in of_kind(manifests, *kinds):
        model = kinds[one["kind"]].model_validate(one)
        assert model.model_dump(by_alias=True, exclude_unset=True, mode="json") == one, "what is unknown is left out"
    for one in of_kind(manifests, "ScaledObject"):
        (trigger,) = one["spec"]["triggers"]
        assert trigger["type"] == ("redis-sentinel" if "addresses" in trigger["metadata"] else "redis")
        assert trigger["metadata"]["listName"] == broker.QUEUES[broker.EXPLAIN]
        names = {deployment["metadata"]["name"] for deployment in of_kind(manifests, "Deployment")}
        assert one["spec"]["scaleTargetRef"]["name"] in names
        (login,) = of_kind(manifests, "TriggerAuthentication")
        assert trigger["authenticationRef"]["name"] == login["metadata"]["name"]
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in of_kind(manifests, "ScaledObject")}
    for one in of_kind(manifests, "Deployment"):
        assert ("replicas" in one["spec"]) != (one["metadata"]["name"] in scaled), "one of them decides how many"


def test_the_settings_load_and_lie_on_the_shared_folder(manifests, tmp_path):
    settings = settings_of(manifests, tmp_path)
    assert settings.node.database == "postgresql+psycopg://node@db/node"
    places = dict(kept(settings))
    assert str(places.pop("metrics.folder")) == "/tmp/metrics", "never one folder for two containers"  # noqa: S108
    assert settings.metrics.port == 9112
    assert {"node.spool", "model.store", "audit.folder"} <= places.keys()
    assert [key for key, path in places.items() if not str(path).startswith("/var/lib/dicom-node/")] == []
    assert settings.registry.uri.startswith("sqlite:////var/lib/dicom-node/")


def test_every_role_has_a_deployment(manifests):
    run = {tuple(one["spec"]["containers"][0]["args"]) for one in pods(manifests).values()}
    roles = {args[2] for args in run if args[:2] == ("serve", "--only")}
    assert roles <= app.ROLES.keys()
    assert {*app.SERVE, "worker"} <= roles
    assert ("migrate",) in run
    if "retraining" in pods(manifests):
        assert {"shadow"} <= roles
        assert ("retrain", "worker") in run


def test_a_pod_may_do_nothing_but_its_work(manifests):
    for name, pod in pods(manifests).items():
        spec, (container,) = pod["spec"], pod["spec"]["containers"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False, "a Service dicom-node would come as an unknown setting DICOM_NODE_"
        assert container["resources"]["limits"]["memory"]
        places = {one["mountPath"] for one in container["volumeMounts"]}
        assert {"/tmp", "/var/lib/dicom-node", "/etc/dicom-node/node.toml"} <= places  # noqa: S108
        named = {one["name"] for one in spec["volumes"]}
        assert {one["name"] for one in container["volumeMounts"]} == named, name


def test_a_pod_is_asked_how_it_is_and_has_time_to_end(manifests, tmp_path):
    settings = settings_of(manifests, tmp_path)
    for name, pod in pods(manifests).items():
        if name == "migrate":
            continue
        (container,) = pod["spec"]["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]
            if name == "web":
                assert asked["httpGet"] == {"path": "/health/live", "port": "http", "scheme": "HTTP"}
            else:
                assert asked["exec"]["command"] == ["python", "-m", pulse.__name__]
        grace = pod["spec"]["terminationGracePeriodSeconds"]
        assert grace > (settings.broker.hard_time_limit if "gpu" in str(pod) or name == "worker" else 30)
        if name in {"listener", "web"}:
            assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "10"]


def test_images_are_targets_of_the_containerfile(manifests):
    targets = stages(DEPLOY / "containers" / "Containerfile")
    for name, pod in pods(manifests).items():
        image = pod["spec"]["containers"][0]["image"]
        assert not names_a_registry(image) or image.startswith("images.example.org/")
        suffix = image.rpartition(":")[2].partition("-")[2]
        target = {"": "listener", "retraining": "retraining"}.get(suffix, f"worker-{suffix}")
        assert target in targets
        assert (suffix != "") == (name in {"worker", "shadow", "retraining"})


def test_a_gpu_is_asked_for_where_one_is_needed(rendered):
    for name, gpu in (("a site", True), ("no GPU, no KEDA", False)):
        text = rendered[1][name]["manifests"]["dicom-explanation-node/templates/worker.yaml"]
        (container,) = next(iter(pods(list(yaml.safe_load_all(text))).values()))["spec"]["containers"]
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) is gpu
        assert {"name": "DICOM_NODE_MODEL__DEVICE", "value": "cuda" if gpu else "cpu"} in container["env"]


def selects(selector, labels):
    wanted = selector.get("matchLabels", selector if "matchExpressions" not in selector else {})
    return wanted.items() <= labels.items() and all(
        labels[one["key"]] in one["values"] for one in selector.get("matchExpressions", [])
    )


def test_services_budgets_and_policies_select_pods_that_are_there(manifests):
    labels = {name: one["metadata"]["labels"] for name, one in pods(manifests).items()}
    ports = {one["name"] for pod in pods(manifests).values() for one in pod["spec"]["containers"][0].get("ports", [])}
    for one in of_kind(manifests, "Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = one["spec"]
        selector = spec["podSelector"] if one["kind"] == "NetworkPolicy" else spec["selector"]
        assert any(selects(selector, mine) for mine in labels.values()), one["metadata"]["name"]
        if one["kind"] == "Service":
            assert {port["targetPort"] for port in spec["ports"]} <= ports
    (everything,) = [one for one in of_kind(manifests, "NetworkPolicy") if "ingress" not in one["spec"]
                     and one["spec"]["policyTypes"] == ["Ingress", "Egress"]]  # fmt: skip
    assert all(selects(everything["spec"]["podSelector"], mine) for mine in labels.values())


def test_the_schema_is_brought_up_before_an_upgrade(manifests):
    (job,) = of_kind(manifests, "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade"
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["migrate"]


def test_the_claim_outlives_the_release(manifests):
    for one in of_kind(manifests, "PersistentVolumeClaim"):
        assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        assert one["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_notes_name_what_a_site_still_has_to_say(rendered):
    notes = {name: rendered[1][name]["manifests"]["dicom-explanation-node/templates/NOTES.txt"] for name in GOOD}
    assert "Nobody may send yet" in notes["defaults"]
    assert "Results go nowhere yet" in notes["defaults"]
    assert "yet" not in notes["a site"]


def test_the_version_is_the_projects():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'version = "{chart["appVersion"]}"' in (ROOT / "pyproject.toml").read_text()
