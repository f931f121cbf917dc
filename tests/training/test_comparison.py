"""Champion against challenger: known numbers, the same figures as `evaluate`, pairing, groups, leaks, resuming."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from gate_figures import SIZE, halved, small_bundle, small_cohorts
from PIL import Image
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from explain_core.explainer import BundleExplainer, open_bundle
from explain_core.quality.reliability import bin_of, ece, ece_by_chance, ece_of_draws
from explain_core.quality.resampling import roc_auc
from training import datasets
from training.datasets import loading
from training.errors import TrainingError
from training.gate import COUNTS, GROUPS, MEASURES, Rules, judge
from training.measure import evaluate as evaluation
from training.measure.comparison import cases, data, scores
from training.measure.comparison.compare import compare, metrics
from training.measure.comparison.estimates import (
    GRID,
    Column,
    Resamples,
    average_precision,
    band,
    compared,
    described,
    mean_of,
    pr_curves,
    roc_curves,
)
from training.measure.comparison.scores import Meter
from training.progress import Cancelled, silent

FEW = {"cases": 6, "draws": 100, "device": "cpu", "augmentations": 2}


@pytest.fixture(scope="module")
def cohorts(nih_folder):
    return small_cohorts(nih_folder)


@pytest.fixture(scope="module")
def champion(root, cohorts, tmp_path_factory):
    default = root / "dicom_node" / "bundles" / "default"
    return halved(small_bundle(default, tmp_path_factory.mktemp("champion")), cohorts[0].images)


@pytest.fixture(scope="module")
def challenger(champion, cohorts, tmp_path_factory):
    copy = tmp_path_factory.mktemp("challenger") / "small"
    shutil.copytree(champion, copy)
    return halved(copy, cohorts[0].images, strength=0.1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def figures(champion, challenger, cohorts, cache):
    return compare(champion, challenger, *cohorts, cache=cache, **FEW)


def scored(count=200, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.random(count) < 0.4
    return labels, np.round(0.3 * labels + 0.7 * generator.random(count), 2)  # with ties


def test_ece_of_known_probabilities():
    probabilities, targets = np.array([0.05, 0.05, 0.95, 0.95]), np.array([0, 1, 1, 1])
    assert ece(probabilities, targets) == pytest.approx(0.5 * 0.45 + 0.5 * 0.05)
    assert ece(np.array([0.0, 1.0]), np.array([0, 1])) == 0
    assert ece(np.array([1.0, 1.0]), np.array([0, 0])) == 1
    assert bin_of(np.array([0, 0.4999, 0.5, 1.0]), 2).tolist() == [0, 0, 1, 1]
    weights = np.array([[1.0, 1, 1, 1], [2, 0, 1, 0], [0, 0, 0, 0]])
    drawn = ece_of_draws(weights, targets, probabilities)
    assert drawn[:2] == pytest.approx([0.25, (2 * 0.05 + 0.05) / 3])
    assert np.isnan(drawn[2])
    with pytest.raises(ValueError, match="2 probabilities for 3 targets"):
        ece(np.zeros(2), np.zeros(3))


def test_ece_by_chance_is_what_a_calibrated_model_shows():
    generator = np.random.default_rng(1)
    probabilities = generator.random(300)
    shown = [ece(probabilities, (generator.random(300) < probabilities).astype(int)) for _ in range(200)]
    assert ece_by_chance(probabilities) == pytest.approx(np.mean(shown), abs=0.005)
    assert ece_by_chance(np.repeat(probabilities, 100), draws=20) < 0.01 < ece_by_chance(probabilities[:30])


def test_weighted_figures_are_those_of_images_repeated_as_often():
    labels, scores = scored()
    weights = np.random.default_rng(2).integers(0, 4, (3, len(labels))).astype(np.float64)
    for row in weights:
        again = np.repeat(np.arange(len(labels)), row.astype(int))
        truth, given = labels[again], scores[again]
        one = row[None]
        assert roc_auc(one, labels, scores)[0] == pytest.approx(roc_auc_score(truth, given))
        assert average_precision(one, labels, scores)[0] == pytest.approx(average_precision_score(truth, given))
        x, y, _ = roc_curve(truth, given, drop_intermediate=False)
        assert roc_curves(one, labels, scores)[0][1:] == pytest.approx(np.interp(GRID, x, y)[1:])
        precision, recall, _ = precision_recall_curve(truth, given)
        best = [precision[:-1][recall[:-1] >= r - 1e-9][-1] for r in GRID]
        assert pr_curves(one, labels, scores)[0] == pytest.approx(best)
    none = np.zeros(len(labels), np.bool_)
    for statistic in (average_precision, roc_curves, pr_curves):
        assert np.isnan(statistic(weights, none, scores)).all()


def test_patients_are_resampled_whole():
    # one patient has 50 equal images: resampled by image the mean would hardly move, by patient it moves much
    values = np.array([1.0] * 50 + [0.0] * 10)
    by_patient = Resamples(["a"] * 50 + [f"p{i}" for i in range(10)], 1000, 0)
    by_image = Resamples([str(i) for i in range(60)], 1000, 0)
    column = mean_of(values)
    widths = []
    for resamples in (by_patient, by_image):
        low, high = described(resamples.values(column.statistic, column.arrays, column.defined), 60)["interval"]
        widths.append(high - low)
    assert widths[0] > 3 * widths[1]


def test_a_difference_is_paired_in_each_draw():
    labels, scores = scored()
    everyone = np.ones(len(labels), np.bool_)
    resamples = Resamples([str(i) for i in range(len(labels))], 300, 0)
    noise = 0.01 * np.random.default_rng(3).standard_normal(len(labels))
    own = {"auc": Column(roc_auc, (labels, scores), everyone)}
    near = {"auc": Column(roc_auc, (labels, scores + noise), everyone)}
    same = compared(own, own, {"all": everyone}, resamples)[2]["auc"]["all"]
    assert same["value"] == 0
    assert same["interval"] == [0, 0]
    first, second, differences = compared(own, near, {"all": everyone}, resamples)
    difference = differences["auc"]["all"]
    assert difference["value"] == pytest.approx(second["auc"]["all"]["value"] - first["auc"]["all"]["value"])
    own_width, paired_width = (np.diff(entry["interval"])[0] for entry in (first["auc"]["all"], difference))
    assert paired_width < own_width / 3, "unpaired it would be wider than each figure's own"
    bounds = [difference["bounds"][level] for level in ("0.8", "0.9", "0.95", "0.975", "0.99")]
    lower, upper = zip(*bounds, strict=True)
    assert list(lower) == sorted(lower, reverse=True)
    assert list(upper) == sorted(upper)
    assert bounds[3] == pytest.approx(difference["interval"])


def test_few_images_have_no_interval_and_none_have_no_figure():
    column = mean_of(np.array([0.5, 0.7, np.nan]))
    resamples = Resamples("abc", 50, 0)
    entry = described(resamples.values(column.statistic, column.arrays, column.defined), 2)
    assert entry == {"value": pytest.approx(0.6), "images": 2, "interval": None, "bounds": {}}
    nothing = mean_of(np.full(3, np.nan))
    table = compared({"x": nothing}, {"x": column}, {"all": np.ones(3, np.bool_)}, resamples)
    assert table[0]["x"] == table[2]["x"] == {}
    assert set(table[1]["x"]) == {"all"}


def test_a_band_encloses_its_curve():
    labels, scores = scored()
    resamples = Resamples([str(i) for i in range(len(labels))], 200, 0)
    found = band(resamples.values(roc_curves, (labels, scores), np.ones(len(labels), np.bool_)))
    low, value, high = (np.array(found[key]) for key in ("low", "value", "high"))
    assert (low <= value + 1e-6).all()
    assert (value <= high + 1e-6).all()
    assert (high - low).max() > 0.05


def test_groups_are_by_view_sex_and_age(cohorts):
    test, _ = cohorts
    aged = replace(test, ages=np.resize([39.9, 40.0, 59.9, 60, 79.9, 80, np.nan], len(test)))
    found = data.groups(aged)
    assert next(iter(found)) == "all"
    assert set(found) <= set(GROUPS)
    ages = {group: sorted(set(aged.ages[use].tolist())) for group, use in found.items() if group.startswith("age")}
    assert ages == {
        "age under 40": [39.9], "age 40 to 59": [40, 59.9], "age 60 to 79": [60, 79.9], "age 80 and over": [80],
    }  # fmt: skip
    for sex in "FM":
        assert found[f"sex {sex}"].tolist() == [s == sex for s in aged.sexes]
    unknown = replace(test, sexes=("",) * len(test), ages=np.full(len(test), np.nan), views=("",) * len(test))
    assert set(data.groups(unknown)) == {"all"}


@pytest.mark.slow
def test_everything_the_gate_may_ask_for_is_measured(figures):
    for role in ("champion", "challenger"):
        assert set(figures["models"][role]["figures"]) == set(MEASURES)
        assert all("all" in table for table in figures["models"][role]["figures"].values())
    assert set(figures["differences"]) == set(MEASURES)
    assert set(figures["groups"]["all"]) == set(COUNTS)
    assert {"view PA", "view AP", "sex F", "sex M", "age under 40", "age 40 to 59"} < set(figures["groups"])
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    flat = metrics(figures)
    assert flat["auc_difference"] == pytest.approx(flat["auc"] - flat["auc_champion"])
    assert flat["test_images"] == 16
    assert judge(Rules.load(), figures).passed is False


@pytest.mark.slow
def test_the_figures_are_those_of_evaluate(figures, challenger, nih_folder, monkeypatch):
    monkeypatch.setattr(evaluation, "open_bundle", partial(open_bundle, augmentations=2))
    other = evaluation.evaluate(challenger, f"nih:{nih_folder}", draws=20)
    model = figures["models"]["challenger"]
    own = {name: table["all"]["value"] for name, table in model["figures"].items()}
    assert own["auc"] == pytest.approx(other["classification"]["all"]["all_labelled"]["auc"]["value"])
    counterfactuals = other["counterfactuals"]["all"]
    for name in ("kept_rate", "flip_rate", "flip_rate_positive", "flip_rate_negative"):
        assert own[name] == pytest.approx(counterfactuals[name]["value"])
    assert own["psnr_similar"] == pytest.approx(counterfactuals["psnr_x_s"]["value"])
    assert own["ssim_adversarial"] == pytest.approx(counterfactuals["ssim_x_a"]["value"])
    rows, found = other["localisation"]["parts"]["all"]["rows"], model["localisation"]["rows"]
    prior = figures["localisation"]["controls"]["location_prior"]["iou"]
    for name, own_row in (("delivered", found["delivered"]), ("one_pass", found["one_pass"]), ("location_prior", None)):
        own_iou = prior if own_row is None else own_row["iou"]
        assert [one["value"] for one in own_iou] == pytest.approx([one["value"] for one in rows[name]["iou"]])
        if own_row is not None:
            assert own_row["pointing"]["value"] == pytest.approx(rows[name]["pointing"]["value"])
    gain = own["gain_over_prior"]
    assert gain == pytest.approx(found["delivered"]["iou"][2]["value"] - prior[2]["value"])


@pytest.mark.slow
def test_the_maps_of_gated_generators_are_the_methods_own(bundle, nih_folder):
    explainer = open_bundle(bundle, device="cpu", augmentations=0)
    samples = [sample for sample in datasets.read(f"nih:{nih_folder}") if sample.boxes][:2]
    images = loading.load_inputs(samples, explainer.bundle.input_spec)
    one_pass, delivered = scores.maps(explainer, images, "one", None, Meter(silent, 1))
    x = images.float() / 255
    with torch.no_grad():
        decisions = explainer.decisions(explainer.probabilities(x))
        own, shown = explainer.heatmap(x, decisions)[0], explainer.shown(x, decisions)[0]
        x_s, x_a = explainer.counterfactuals(x, decisions)
    np.testing.assert_allclose(np.stack(one_pass), own[:, 0], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(np.stack(delivered), shown[:, 0], rtol=1e-3, atol=1e-7)
    assert not np.allclose(np.stack(one_pass), (x_s - x_a).abs()[:, 0], rtol=1e-2, atol=0)


def test_confusion_curves_and_calibration_agree_with_the_figures(figures):
    for model in figures["models"].values():
        table = model["confusion"]
        positive = table["true_positive"] + table["false_negative"]
        negative = table["true_negative"] + table["false_positive"]
        assert positive == figures["groups"]["all"]["positive"]
        assert negative == figures["groups"]["all"]["negative"]
        sensitivity = model["figures"]["sensitivity"]["all"]["value"]
        assert table["true_positive"] / positive == pytest.approx(sensitivity)
        bins = model["calibration"]["bins"]
        assert sum(row["rate"]["images"] for row in bins) == positive + negative
        gaps = sum(row["rate"]["images"] * abs(row["mean"] - row["rate"]["value"]) for row in bins)
        assert gaps / (positive + negative) == pytest.approx(model["figures"]["ece"]["all"]["value"])
        area = np.trapezoid(model["roc"]["value"], model["roc"]["x"])
        assert area == pytest.approx(model["figures"]["auc"]["all"]["value"], abs=0.05)


@pytest.mark.slow
def test_a_model_compared_with_itself_differs_in_nothing(champion, cohorts, figures, cache):
    same = compare(champion, champion, *cohorts, cache=cache, **(FEW | {"cases": 0}))
    for table in same["differences"].values():
        assert all(entry["value"] == 0 and set(entry["interval"] or [0]) == {0} for entry in table.values())
    assert same["models"]["champion"]["figures"] == figures["models"]["champion"]["figures"]
    assert any(table["all"]["value"] != 0 for table in figures["differences"].values())


def nameless(figures):
    """The figures without the places of the pictures."""
    return figures | {"cases": [{k: v for k, v in case.items() if k != "file"} for case in figures["cases"]]}


@pytest.mark.slow
def test_a_stopped_comparison_goes_on_where_it_was(champion, challenger, cohorts, figures, tmp_path, monkeypatch):
    calls = []

    def counted(explain):
        def counting(self, images, *arguments):
            calls.append(len(images))
            return explain(self, images, *arguments)

        return counting

    for name in ("counterfactuals", "shown"):  # the scores', and the maps'
        monkeypatch.setattr(BundleExplainer, name, counted(getattr(BundleExplainer, name)))
    seen = []

    def stop(done, **said):
        seen.append(done)
        if said.get("doing") == "maps of the challenger":
            raise Cancelled("asked to stop")

    with pytest.raises(Cancelled):
        compare(champion, challenger, *cohorts, cache=tmp_path, progress=stop, **FEW)
    first = sum(calls)
    calls.clear()
    assert seen == sorted(seen)
    whole = next(tmp_path.glob("scores-*.npz"))
    whole.write_bytes(whole.read_bytes()[:100])  # as a full disk would leave it
    said = []
    again = compare(champion, challenger, *cohorts, cache=tmp_path, progress=lambda done, **_: said.append(done), **FEW)
    boxed = figures["localisation"]["images"]
    assert first == 2 * 16 + boxed + 1
    in_cases = 2 * 6 * 2  # of both models, a map and its images
    assert sum(calls) == 16 + boxed + in_cases, "one model's broken scores, the challenger's maps, the cases: no more"
    assert said[-1] == 1
    assert nameless(again) == nameless(figures)
    calls.clear()
    compare(champion, challenger, *cohorts, cache=tmp_path, **FEW)
    assert not calls


@pytest.mark.slow
def test_the_cache_does_not_serve_other_images(champion, challenger, cohorts, cache, figures):
    test, training = cohorts
    assert figures["models"]
    fewer = compare(champion, challenger, test.take(np.arange(10)), training, cache=cache, **(FEW | {"cases": 0}))
    assert fewer["models"]["champion"]["figures"]["flip_rate"]["all"]["images"] == 10


@pytest.mark.slow
def test_localisation_is_on_as_many_images_as_asked_the_same_for_both(champion, challenger, cohorts):
    few = compare(champion, challenger, *cohorts, localisation_images=3, **(FEW | {"cases": 0}))
    assert few["localisation"]["images"] == 3
    assert few["localisation"]["of"] > 3
    for model in few["models"].values():
        assert model["figures"]["iou_90"]["all"]["images"] == 3


def test_leaks_are_found(cohorts):
    test, training = cohorts
    assert data.leaks(test, training)["patients"] == {"count": 0, "between": [], "first": []}
    assert data.leaks(test, training)["images"]["count"] == 0
    patients = (test.patients[0], test.patients[0], *training.patients[2:])
    leaky = replace(training, patients=patients)
    leaky.images[3] = test.images[5]
    try:
        found = data.leaks(test, leaky)
    finally:
        leaky.images[3] = training.images[4] * 0  # the fixture is shared
    split = training.splits[0]
    assert found["patients"] == {"count": 1, "between": [[split, "test", 1]], "first": [test.patients[0]]}
    assert found["images"]["count"] == 1
    assert found["images"]["between"] == [[training.splits[3], "test", 1]]


@pytest.mark.slow
def test_without_labels_or_boxes_what_remains_is_measured(champion, challenger, cohorts):
    test, training = cohorts
    bare = replace(test, targets=np.full(len(test), -1), truths=(None,) * len(test))
    found = compare(champion, challenger, bare, training, **(FEW | {"cases": 2}))
    assert "localisation" not in found
    assert found["models"]["challenger"]["figures"]["auc"] == {}
    assert found["models"]["challenger"]["figures"]["flip_rate"]["all"]["images"] == len(test)
    assert "auc" not in metrics(found)
    assert {case["target"] for case in found["cases"]} == {"unknown"}
    failed = {finding.figure for finding in judge(Rules.load(), found).failures}
    assert {"auc", "ece", "positive"} <= failed


@pytest.mark.slow
def test_images_on_another_grid_or_none_are_refused(champion, challenger, cohorts):
    test, training = cohorts
    with pytest.raises(TrainingError, match=r"champion .* sees 96 x 96 pixels, the test images have 64 x 64"):
        compare(champion, challenger, replace(test, images=test.images[..., :64, :64]), training, **FEW)
    with pytest.raises(TrainingError, match="no image"):
        compare(champion, challenger, test.take(np.arange(0)), training, **FEW)
    with pytest.raises(TrainingError, match="one finding"):
        compare(champion, challenger, replace(test, exclusive=True), training, **FEW)


def chosen(targets, own, other=None, adversarial=None, count=24):
    own = np.array(own)
    scores = {
        "challenger": {"f_x": own, "f_x_a": 1 - own if adversarial is None else np.array(adversarial)},
        "champion": {"f_x": own if other is None else np.array(other)},
    }
    picked, kinds = cases.choose(np.array(targets), scores, {"challenger": 0.5, "champion": 0.5}, count, 0)
    return [(case.place, case.kind) for case in picked], kinds


def test_failures_come_first_the_most_confident_ahead():
    picked, kinds = chosen(
        [1, 1, 0, 0, 1, -1, 0],
        [0.3, 0.1, 0.6, 0.9, 0.8, 0.2, 0.1],
        other=[0.3, 0.1, 0.6, 0.9, 0.8, 0.7, 0.1],
        adversarial=[0.7, 0.9, 0.4, 0.1, 0.6, 0.8, 0.9],
    )
    assert picked == [
        (1, "false negative"), (0, "false negative"), (3, "false positive"), (2, "false positive"),
        (4, "decision not changed"), (5, "models disagree"), (6, "correct"),
    ]  # fmt: skip
    assert kinds == {
        "false negative": 2, "false positive": 2, "decision not changed": 1, "models disagree": 1, "correct": 2,
    }  # fmt: skip


def test_many_failures_leave_room_for_the_other_kinds():
    generator = np.random.default_rng(0)
    targets, own = generator.integers(0, 2, 300), generator.random(300)
    changed = generator.random(300)
    picked, _ = chosen(targets, own, other=generator.random(300), adversarial=changed)
    kinds = [kind for _, kind in picked]
    assert len(picked) == len({place for place, _ in picked}) == 24
    assert [kinds.count(k) for k in ("decision not changed", "models disagree", "correct")] == [4, 4, 4]
    wrong = (own >= 0.5) != (targets > 0)
    surest = np.flatnonzero(wrong)[np.argsort(-np.abs(own[wrong] - 0.5))][:12]
    assert {place for place, kind in picked if kind.startswith("false")} == set(surest.tolist())
    kept = np.setdiff1d(np.flatnonzero((changed >= 0.5) == (own >= 0.5)), surest)
    surest_kept = kept[np.argsort(-np.abs(own[kept] - 0.5))][:4]
    assert [place for place, kind in picked if kind == "decision not changed"] == surest_kept.tolist()


def test_with_few_of_one_kind_the_others_fill_up():
    picked, _ = chosen([1] * 40, [0.1] * 40)
    assert len(picked) == 24
    assert {kind for _, kind in picked} == {"false negative"}
    assert len(chosen([1] * 5, [0.9] * 5)[0]) == 5


def test_in_casesare_pictures_that_name_nobody(figures, cohorts):
    test, _ = cohorts
    assert len(figures["cases"]) == 6
    text = json.dumps([{k: v for k, v in case.items() if k != "file"} for case in figures["cases"]])
    assert "0000" not in text, "the small folder's file names"
    for case in figures["cases"]:
        assert not {"patient", "name", "path"} & set(case)
        with Image.open(case["file"]) as image:
            assert image.size == (4 * SIZE + 3 * 4, SIZE)
        assert case["target"] in {*test.classes, "unknown"}
