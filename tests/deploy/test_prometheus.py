"""Files for Prometheus and Grafana: promtool takes them, every rule fires and keeps quiet, the dashboard is whole."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool")


@pytest.fixture
def folder(root):
    return root / "deploy" / "prometheus"


def promtool(folder, *arguments):
    done = subprocess.run([PROMTOOL, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.external
@needs_promtool
def test_promtool_takes_rules_and_configuration(folder):
    promtool(folder, "check", "rules", "--lint=all", "--lint-fatal", "dicom-node.rules.yml")
    promtool(folder, "check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")


@pytest.mark.external
@needs_promtool
def test_every_rule_fires_when_it_should_and_not_when_all_is_well(folder):
    promtool(folder, "test", "rules", "dicom-node.rules.test.yml")


def test_every_rule_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(folder):
    rules = yaml.safe_load((folder / "dicom-node.rules.yml").read_text())["groups"][0]["rules"]
    names = {one["alert"] for one in rules}
    fires, quiet = set(), set()
    for case in yaml.safe_load((folder / "dicom-node.rules.test.yml").read_text())["tests"]:
        for one in case["alert_rule_test"]:
            (fires if one.get("exp_alerts") else quiet).add(one["alertname"])
    assert names == fires == quiet
    assert all({"summary", "description"} == set(one["annotations"]) for one in rules), "what it is, and what to do"


def test_the_dashboard_asks_the_data_source_that_is_provisioned_and_no_panel_hides_another(root):
    grafana = root / "deploy" / "grafana"
    dashboard = json.loads((grafana / "dashboards" / "dicom-node.json").read_text())
    sources = yaml.safe_load((grafana / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert set(re.findall(r'"uid": "(?!dicom-node)([^"]+)"', json.dumps(dashboard))) == {sources[0]["uid"]}
    panels = dashboard["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    places: dict[tuple[int, int], str] = {}
    for one in panels:
        at = one["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert x < 24
                assert (x, y) not in places, f"{one['title']} lies over {places[x, y]}"
                places[x, y] = one["title"]
        assert one["title"]
        assert one["type"] == "row" or one["targets"]


@pytest.mark.external
@needs_promtool
def test_every_question_of_the_dashboard_is_one_that_prometheus_understands(root, tmp_path):
    dashboard = json.loads((root / "deploy" / "grafana" / "dashboards" / "dicom-node.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(asked) > 20
    rules = [{"record": f"r{number}", "expr": expression} for number, expression in enumerate(asked)]
    (tmp_path / "asked.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool(tmp_path, "check", "rules", "asked.yml")
