"""Drift: silent on more of the same, loud on what has changed, honest about too few; on real radiographs."""

import csv
import dataclasses
import json
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from shadowing import Node, make_bundle, observed
from toy_explainer import ToyExplainer
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.errors import ConfigError
from dicom_node.models import drift
from dicom_node.models.drift import MINIMUM, STATISTICS, holm, judge, live_reference, model_facts, training_reference
from explain_core.radiograph import Radiograph
from explain_core.statistics import reference_of

TOY = ToyExplainer(roughness_limit=0.06)


def nih(folder, folds: set[str], count: int) -> list[np.ndarray]:
    """Real radiographs, luminance 0 to 1, of patients of some folds, in an order of chance."""
    with (folder / "nih_cxr14_subset" / "labels.csv").open() as file:
        names = [row["file"] for row in csv.DictReader(file) if row["patient_fold"] in folds]
    np.random.default_rng(0).shuffle(names)
    return [grey(folder / "nih_cxr14_subset" / "images" / name) for name in names[:count]]


def kermany(folder, count: int) -> list[np.ndarray]:
    """Real radiographs of children."""
    paths = sorted((folder / "kermany224" / "test").rglob("*.jp*g"))
    np.random.default_rng(0).shuffle(paths)
    return [grey(path) for path in paths[:count]]


def grey(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), np.float32) / 255


def seen_by(explainer, images, change=lambda image: image, first: int = 0):
    """Observations of changed images."""
    radiographs = (
        Radiograph(pixels=np.float32(change(image)), spacing=None, orientation=None, source_id="1") for image in images
    )
    return observed([explainer.classify(one) for one in radiographs], first)


def against(reference, live) -> set[str]:
    """The statistics that have drifted."""
    findings = judge({"all": live}, live_reference(reference))
    assert drift.verdict(findings) in ("drift", "no drift")
    return {one.statistic for one in findings if one.verdict == "drift"}


@pytest.fixture(scope="module")
def validation(shared_data):
    return seen_by(TOY, nih(shared_data, {"2"}, 150))


@pytest.fixture(scope="module")
def test_images(shared_data):
    return nih(shared_data, {"0", "1"}, 150)


# ---- real radiographs


def test_unspoilt_images_of_other_patients_raise_no_alarm(validation, test_images):
    assert against(validation, seen_by(TOY, test_images)) == set()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda image: 0.25 + image / 2, "contrast"),
        (lambda image: image**2.2, "mean"),
        (lambda image: image[:, 64:-64], "aspect"),
    ],
    ids=["half the contrast", "darker", "other format"],
)
def test_a_planted_change_raises_an_alarm(validation, test_images, change, found):
    assert found in against(validation, seen_by(TOY, test_images, change))


def test_children_raise_an_alarm(validation, shared_data):
    assert against(validation, seen_by(TOY, kermany(shared_data, 100)))


def test_a_scanner_gone_dark_is_seen_among_others(validation, test_images):
    good, dark = seen_by(TOY, test_images), seen_by(TOY, test_images[:MINIMUM], lambda image: image**4, first=200)
    findings = judge({"CR1": good, "CR2": dark}, live_reference(validation))
    assert {one.group for one in findings if one.verdict == "drift"} == {"CR2"}


@pytest.mark.slow
def test_the_default_bundle_on_real_images(shared_data, root, capsys):
    """The default bundle's own eyes: no alarm on test images; alarms on what its input stretch does not undo.

    Prints the rate of false alarms over random halves, which docs/monitoring.md states.
    """
    from explain_core.explainer import open_bundle

    explainer = open_bundle(root / "dicom_node" / "bundles" / "default", device="cpu")
    reference = seen_by(explainer, nih(shared_data, {"2"}, 222))
    images = nih(shared_data, {"0", "1"}, 178)
    unspoilt = seen_by(explainer, images, first=1000)
    assert against(reference, unspoilt) == set()
    assert against(reference, seen_by(explainer, images[:60], lambda image: 0.25 + image / 2)) == set()  # undone
    assert "mean" in against(reference, seen_by(explainer, images[:60], lambda image: image**2.2))
    assert "mean" in against(reference, seen_by(explainer, images[:60], lambda image: 1 - image))
    assert against(reference, seen_by(explainer, kermany(shared_data, 60)))
    rate = false_alarms([*reference, *unspoilt], 200)
    with capsys.disabled():
        print(f"\nfalse alarms, halves of {len(reference) + len(unspoilt)} NIH images, default bundle: {rate} of 200")  # noqa: T201
    assert rate <= 4


def false_alarms(seen, repeats: int) -> int:
    """Alarms of one random half against the other: there is no drift to find."""
    chance, found = np.random.default_rng(0), 0
    for _ in range(repeats):
        shuffled = [seen[index] for index in chance.permutation(len(seen))]
        half = len(seen) // 2
        found += bool(against(shuffled[:half], shuffled[half:]))
    return found


# ---- the arithmetic


def normal(count: int, mean: float = 0.0, spread: float = 1.0, seed: int = 1):
    """Observations whose statistics are normal, around 10, and a fifth of them positive."""
    chance = np.random.default_rng(seed)
    (one,) = observed([TOY.classify(Radiograph(pixels=np.eye(64, dtype=np.float32), spacing=None, orientation=None,
                                               source_id="1"))])  # fmt: skip
    draws = 10 + mean + spread * chance.standard_normal((count, 4))
    names = ("mean", "contrast", "sharpness", "aspect")
    return [
        dataclasses.replace(
            one,
            sop_instance_uid=f"1.2.{seed}.{number}",
            statistics=dict(zip(names, row.tolist(), strict=True)),
            probability=number / count,
            positive=number % 5 == 0,
            distance=float(number % 7),
            far=number % 100 == 0,
        )
        for number, row in enumerate(draws)
    ]


def test_a_difference_too_small_to_matter_is_no_alarm_however_sure_it_is():
    findings = judge({"all": normal(8000, 0.15, seed=2)}, live_reference(normal(8000)))
    small = next(one for one in findings if one.statistic == "mean")
    assert small.adjusted < 1e-6
    assert small.shift == pytest.approx(0.15, abs=0.03)
    assert small.verdict == "no drift"
    assert against(normal(8000), normal(8000, 0.6, seed=2)) == {"mean", "contrast", "sharpness", "aspect"}


def test_a_tenth_of_many_images_that_is_very_different_is_an_alarm():
    """Kolmogorov-Smirnov's distance stays small; Wasserstein's weighs how far off they are."""
    findings = judge({"all": normal(1800, seed=2) + normal(200, 6, seed=3)}, live_reference(normal(500)))
    tail = next(one for one in findings if one.statistic == "mean")
    assert tail.ks < drift.LEAST_KS
    assert tail.shift > drift.LEAST_SHIFT
    assert tail.verdict == "drift"


def test_a_large_difference_that_chance_explains_is_no_alarm():
    findings = judge({"all": normal(MINIMUM, 0.25, seed=5)}, live_reference(normal(MINIMUM)))
    assert any(one.large for one in findings)
    assert drift.verdict(findings) == "no drift"


def test_too_few_images_are_said_to_be_too_few():
    for live, reference in ((MINIMUM - 1, 500), (500, MINIMUM - 1)):
        findings = judge({"all": normal(live, 5, seed=2)}, live_reference(normal(reference)))
        assert {one.verdict for one in findings} == {"too few"}
        assert drift.verdict(findings) == "too few"
    assert drift.verdict(judge({"all": normal(MINIMUM, 5, seed=2)}, live_reference(normal(500)))) == "drift"
    assert drift.verdict(judge({"all": []}, live_reference(normal(500)))) == "too few"


def test_several_tests_are_paid_for():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    one = judge({"all": normal(200, seed=2)}, live_reference(normal(200)))
    many = judge({str(group): normal(200, seed=2) for group in range(10)}, live_reference(normal(200)))
    for first, tenth in zip(one, many, strict=False):
        assert tenth.adjusted >= first.adjusted
    assert sum(b.adjusted > a.adjusted for a, b in zip(one, many, strict=False)) > 0


def test_groups_are_judged_apart():
    findings = judge({"CR1": normal(200, seed=2), "CR2": normal(200, 1, seed=3), "CR3": normal(9, 1, seed=4)},
                     live_reference(normal(400)))  # fmt: skip
    assert {one.group for one in findings if one.verdict == "drift"} == {"CR2"}
    assert {one.group for one in findings if one.verdict == "too few"} == {"CR3"}


def with_share(rows, name: str, share: float):
    return [dataclasses.replace(one, **{name: n < share * len(rows)}) for n, one in enumerate(rows)]


@pytest.mark.parametrize(
    ("name", "before", "after", "alarm"),
    [
        ("positive", 0.2, 0.4, True),
        ("positive", 0.4, 0.2, True),
        ("positive", 0.2, 0.27, False),
        ("far", 0.01, 0.08, True),
        ("far", 0.08, 0.01, False),
        ("far", 0.01, 0.04, False),
    ],
)
def test_shares(name, before, after, alarm):
    reference = live_reference(with_share(normal(1000), name, before))
    findings = judge({"all": with_share(normal(1000), name, after)}, reference)
    (found,) = [one for one in findings if one.statistic == name]
    assert found.value == pytest.approx(after)
    assert found.low < after < found.high
    assert found.reference_value == pytest.approx(before)
    assert (found.verdict == "drift") is alarm


def test_a_model_that_does_not_judge_distance_is_not_measured_there():
    blind = [dataclasses.replace(one, distance=None, far=None) for one in normal(100)]
    findings = {one.statistic: one for one in judge({"all": blind}, live_reference(normal(100)))}
    assert (findings["distance"].verdict, findings["far"].verdict) == ("not measured", "not measured")
    assert findings["mean"].verdict == "no drift"


def test_a_reference_of_images_all_alike_in_one_statistic_needs_a_real_difference():
    alike = [dataclasses.replace(one, statistics=dict(one.statistics) | {"aspect": 1.0}) for one in normal(100)]
    assert against(alike, alike) == set()
    wider = [dataclasses.replace(one, statistics=dict(one.statistics) | {"aspect": 1.2}) for one in alike]
    assert against(alike, wider) == {"aspect"}


# ---- the bundle


def reference(rows) -> dict:
    return reference_of({name: drift.values(rows, name) for name in STATISTICS})


def test_the_reference_is_read_from_a_verified_bundle(tmp_path, root):
    digest = make_bundle(tmp_path / "b", "1.0.0", 0.8, reference(normal(100)))
    facts = model_facts(tmp_path / "b")
    assert (facts.digest, facts.threshold, facts.limit) == (digest, 0.8, None)
    found = training_reference(facts)
    assert (found.kind, found.images, found.positive, found.far) == ("training", 100, 20, None)
    assert model_facts(root / "dicom_node" / "bundles" / "default").limit == 9.3
    (tmp_path / "b" / "reference.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"reference\.json does not match its checksum"):
        model_facts(tmp_path / "b")


# ---- the command


class Observed:
    """A node's ledger with what its champion said on each of the last days, as many images a day."""

    def __init__(self, folder, rows, *, days: float = 10, reference: dict | None = None) -> None:
        node = Node(folder)
        if reference is not None:
            configured = folder / "configured"
            configured.rename(folder / "without")
            node.champion = make_bundle(configured, "1.0.0", 0.8, reference)
        self.node, now = node, datetime.now(UTC)
        step = timedelta(days=days) / len(rows)
        node.ledger.observe(
            [
                dataclasses.replace(one, digest=node.champion, observed_at=now - step * (len(rows) - number - 0.5))
                for number, one in enumerate(rows)
            ]
        )
        node.ledger.close()
        self.config = folder / "node.toml"
        self.config.write_text(
            f'[node]\nspool = "{node.settings.node.spool}"\ndatabase = "{node.settings.node.database}"\n'
            f'[model]\nbundle = "{folder}/configured"\nstore = "{folder}/models"\n'
        )

    def drift(self, *arguments: str):
        return CliRunner().invoke(app, ["drift", "--config", str(self.config), *arguments])


def test_the_command_says_no_drift_drift_and_too_few(tmp_path):
    (tmp_path / "a").mkdir()
    here = Observed(tmp_path / "a", normal(200, seed=2), reference=reference(normal(300)))
    result = here.drift()
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "no drift")
    assert "the validation images of the bundle" in result.stdout.replace("\n", " ")
    assert here.drift("--last", "49").exit_code == 1
    assert "not enough images: 50" in here.drift("--since", "1").stdout
    (tmp_path / "b").mkdir()
    here = Observed(tmp_path / "b", normal(200, 1, seed=2), reference=reference(normal(300)))
    result = here.drift("--json")
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert (found["verdict"], found["images"], found["reference"]) == (
        "drift",
        200,
        {"kind": "training", "images": 300},
    )
    assert {one["statistic"] for one in found["findings"] if one["verdict"] == "drift"} == {
        "mean",
        "contrast",
        "sharpness",
        "aspect",
    }
    assert {one["group"] for one in json.loads(here.drift("--by", "calling-ae", "--json").stdout)["findings"]} == {
        "all",
        "unknown",
    }


def test_without_a_reference_the_earlier_live_window_is_taken_and_said(tmp_path):
    here = Observed(tmp_path, normal(100) + normal(100, 1, seed=2))
    result = here.drift("--since", "5", "--json")
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert found["reference"] == {"kind": "live", "images": 100}
    assert "the bundle has no reference.json" in found["note"]
    assert here.drift().exit_code == 1  # everything is in the window: nothing came before
    assert here.drift("--against", "training").exit_code == 1


def test_the_metrics_are_a_file_for_the_textfile_collector(tmp_path):
    here = Observed(tmp_path, normal(200, 1, seed=2), reference=reference(normal(300)))
    digest = here.node.deploy("2.0.0")
    file = tmp_path / "node.prom"
    assert here.drift("--metrics", str(file)).exit_code == 3
    families = {one.name: one for one in text_string_to_metric_families(file.read_text())}
    ks = {one.labels["statistic"]: one for one in families["dicom_node_drift_ks"].samples}
    assert ks["mean"].value > 0.3
    assert ks["mean"].labels == {"statistic": "mean", "model": f"toy 1.0.0 {here.node.champion[:12]}", "group": "all"}
    alarms = {one.labels["statistic"]: one.value for one in families["dicom_node_drift_alarm"].samples}
    assert (alarms["mean"], alarms["positive"]) == (1, 0)
    assert families["dicom_node_positive_ratio"].samples[0].value == pytest.approx(0.2)
    assert families["dicom_node_far_ratio"].samples[0].value == pytest.approx(0.01)
    assert families["dicom_node_drift_enough_images"].samples[0].value == 1
    (challenger,) = families["dicom_node_challenger_images"].samples
    assert (challenger.labels["challenger"], challenger.value) == (f"toy 2.0.0 {digest[:12]}", 0)
    assert list(tmp_path.glob("*prom*")) == [file]
    assert here.drift("--metrics", str(tmp_path / "no" / "node.prom")).exit_code == 2


def test_a_tampered_champion_is_one_clear_line(tmp_path):
    here = Observed(tmp_path, normal(60), reference=reference(normal(300)))
    (tmp_path / "configured" / "model_card.md").write_text("better")
    result = here.drift()
    assert result.exit_code == 2
    assert "model_card.md does not match its checksum" in result.output


def test_a_missing_extra_is_one_line_that_says_how_to_get_it(tmp_path, monkeypatch):
    here = Observed(tmp_path, normal(60), reference=reference(normal(60)))
    monkeypatch.setitem(sys.modules, "scipy", None)
    result = here.drift("--metrics", str(tmp_path / "node.prom"))
    assert result.exit_code == 2
    expected = 'error: SciPy is missing: pip install -c constraints.txt ".[monitoring]" in the folder of the source'
    assert result.output.strip() == expected
