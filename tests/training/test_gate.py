"""The gate: every kind of rule fails and passes where it should, and says by how much and why."""

import copy
import json
import re

import pytest
from gate_figures import gate_figures
from hypothesis import given, settings
from hypothesis import strategies as st

from training.errors import TrainingError
from training.gate import GROUPS, LEVELS, MEASURES, GateError, Rules, Verdict, judge


def rules(tmp_path, text):
    path = tmp_path / "gate.toml"
    path.write_text(text)
    return Rules.load(path)


def rule(**keys):
    lines = [f"{key} = {json.dumps(value)}" for key, value in ({"name": "R"} | keys).items()]
    return "[[rule]]\n" + "\n".join(lines) + "\n"


def only(tmp_path, figures, **keys):
    (finding,) = judge(rules(tmp_path, rule(**keys)), figures).findings
    return finding


def test_the_default_rules_pass_a_challenger_as_good_as_the_champion():
    verdict = judge(Rules.load(), gate_figures())
    assert verdict.passed
    assert not verdict.failures
    assert not verdict.not_judged
    assert len(verdict.findings) == 17 + 7, "one finding a rule, eight groups for the rule of groups"


def test_the_default_rules_ask_for_everything_the_gate_is_there_for():
    found = {(r.kind, r.figure) for r in Rules.load().rules}
    assert {
        ("no leak", "patients"), ("no leak", "images"), ("not worse", "auc"), ("at most", "ece"), ("not worse", "ece"),
        ("at least", "flip_rate"), ("at least", "kept_rate"), ("at least", "psnr_similar"), ("not worse", "iou_90"),
        ("at least", "positive"), ("at least", "negative"), ("at least", "patients"),
    } <= found  # fmt: skip
    assert set(GROUPS) == {group for r in Rules.load().rules if r.figure == "auc" for group in r.groups}


@pytest.mark.parametrize(
    ("figures", "failed"),
    [
        (gate_figures({"auc": -0.06}), {"AUC not worse", "AUC not clearly worse at all"}),
        (gate_figures({"auc": -0.08}), {"AUC not worse", "AUC not clearly worse at all",
                                        "AUC of each group not clearly worse"}),
        (gate_figures({"ece": -0.06}), {"Calibration not clearly worse"}),
        (gate_figures(values={"ece": 0.151}), {"Probabilities mean what they say"}),
        (gate_figures({"sensitivity": -0.08}), {"Sensitivity not clearly worse"}),
        (gate_figures({"specificity": -0.08}), {"Specificity not clearly worse"}),
        (gate_figures(values={"flip_rate": 0.84}), {"Adversarial images change the decision"}),
        (gate_figures(values={"flip_rate_positive": 0.7}), {"Adversarial images change positive decisions"}),
        (gate_figures(values={"kept_rate": 0.97}), {"Similar images keep the decision"}),
        (gate_figures(values={"psnr_similar": 39.9}), {"Similar images look the same"}),
        (gate_figures({"iou_90": -0.05}), {"Localisation not worse"}),
        (gate_figures(leaks=(2, 0)), {"No patient in two splits"}),
        (gate_figures(leaks=(0, 3)), {"No identical image in two splits"}),
        (gate_figures(counts={"positive": 29}), {"Enough positive test images"}),
        (gate_figures(counts={"negative": 29}), {"Enough negative test images"}),
        (gate_figures(counts={"patients": 49}), {"Enough test patients"}),
    ],
)  # fmt: skip
def test_each_fault_breaks_its_own_rules_and_no_other(figures, failed):
    verdict = judge(Rules.load(), figures)
    assert not verdict.passed
    assert {finding.rule for finding in verdict.failures} == failed
    assert all((finding.by > 0 and "failed by" in finding.sentence) or "two splits" in finding.sentence
               for finding in verdict.failures)  # fmt: skip
    assert all(finding.sentence in verdict.reason for finding in verdict.failures)


def test_the_three_ways_to_judge_a_difference_look_at_its_two_ends_and_its_middle(tmp_path):
    figures = gate_figures({"auc": -0.05}, half=0.02)  # worse by 0.03 to 0.07
    for limit, judged, failed in (
        (0.071, "non-inferior", False), (0.069, "non-inferior", True),
        (0.031, "not clearly worse", False), (0.029, "not clearly worse", True),
        (0.051, "measured", False), (0.049, "measured", True),
    ):  # fmt: skip
        finding = only(tmp_path, figures, kind="not worse", figure="auc", limit=limit, judged=judged)
        assert finding.failed == failed, (limit, judged)
        assert finding.by == pytest.approx(0.001 if failed else 0)


def test_less_calibration_error_is_better(tmp_path):
    worse = gate_figures({"ece": -0.05})
    assert worse["differences"]["ece"]["all"]["value"] == 0.05
    keys = {"kind": "not worse", "figure": "ece", "limit": 0.02, "judged": "measured"}
    assert only(tmp_path, worse, **keys).by == pytest.approx(0.03)
    assert only(tmp_path, gate_figures({"ece": 0.05}), **keys).passed
    clearly = only(tmp_path, worse, **(keys | {"judged": "not clearly worse"}))
    assert clearly.by == pytest.approx(0.01), "even the favourable end, 0.03, is worse than 0.02"


def test_how_sure_moves_the_bound(tmp_path):
    figures = gate_figures(values={"flip_rate": 0.9}, half=0.05)
    keys = {"kind": "at least", "figure": "flip_rate", "limit": 0.86}
    assert only(tmp_path, figures, **keys).passed, "without certainty the value counts"
    assert only(tmp_path, figures, **keys, sure=0.95).by == pytest.approx(0.01)
    assert only(tmp_path, figures, **keys, sure=0.8).by == pytest.approx(0.86 - 0.9 + 0.05 * 1.3 / 1.45)
    upper = {"kind": "at most", "figure": "ece", "limit": 0.08, "sure": 0.95}
    assert only(tmp_path, gate_figures(half=0.05), **upper).by == pytest.approx(0.02)


def test_a_small_group_is_not_judged_and_said_so(tmp_path):
    figures = gate_figures({"auc": -0.5})
    figures["groups"]["sex F"] |= {"positive": 19, "negative": 3}
    del figures["groups"]["sex M"]
    text = rule(
        kind="not worse",
        figure="auc",
        limit=0.05,
        judged="not clearly worse",
        groups=["sex"],
        positives=20,
        negatives=4,
    )
    women, men = judge(rules(tmp_path, text), figures).findings
    assert (women.outcome, men.outcome) == ("not judged", "not judged")
    assert not women.passed
    assert "only 19 labelled positive images of the 20 needed and 3 labelled negative images" in women.sentence
    assert "no test image is known to belong to this group" in men.sentence
    verdict = judge(rules(tmp_path, text), figures)
    assert verdict.not_judged == (women, men)


def test_the_whole_test_set_must_be_large_enough(tmp_path):
    keys = {"kind": "not worse", "figure": "auc", "limit": 0.05, "judged": "non-inferior", "positives": 101}
    finding = only(tmp_path, gate_figures(), **keys)
    assert finding.failed
    assert "not measured, only 100 labelled positive images of the 101 needed" in finding.sentence


@pytest.mark.parametrize(
    "keys",
    [
        {"kind": "not worse", "figure": "iou_90", "limit": 0.02, "judged": "not clearly worse"},
        {"kind": "at least", "figure": "iou_90", "limit": 0.02},
        {"kind": "at most", "figure": "iou_90", "limit": 1, "sure": 0.9},
        {"kind": "at least", "figure": "boxed", "limit": 1},
        {"kind": "no leak", "figure": "images"},
    ],
)
def test_what_was_not_measured_fails_unless_the_rule_is_optional(tmp_path, keys):
    figures = gate_figures()
    for table in (figures["models"]["challenger"]["figures"], figures["differences"]):
        table["iou_90"] = {}
    del figures["leaks"]["images"], figures["groups"]["all"]["boxed"]
    finding = only(tmp_path, figures, **keys)
    assert finding.failed
    assert finding.value is None
    assert finding.by is None
    assert "not measured" in finding.sentence
    optional = only(tmp_path, figures, **keys, optional=True)
    assert optional.outcome == "not judged"
    assert "not measured" in optional.sentence


@pytest.mark.parametrize("broken", [None, "0.9", True, float("nan"), float("inf")])
def test_what_is_no_number_was_not_measured(tmp_path, broken):
    figures = gate_figures()
    figures["models"]["challenger"]["figures"]["auc"]["all"]["value"] = broken
    assert only(tmp_path, figures, kind="at least", figure="auc", limit=0).failed


def test_nothing_at_all_is_refused():
    verdict = judge(Rules.load(), {})
    assert not verdict.passed
    assert all(not finding.passed for finding in verdict.findings)


def test_a_sentence_says_group_numbers_limit_and_by_how_much(tmp_path):
    figures = gate_figures({"auc": -0.08})
    finding = only(
        tmp_path, figures, kind="not worse", figure="auc", limit=0.05, judged="non-inferior", groups=["view AP"]
    )
    assert finding.sentence == (
        "ROC AUC, view AP: 0.900 against 0.980 of the champion, with 95 % certainty at worst worse by 0.100, "
        "allowed is 0.05: failed by 0.050."
    )
    assert (finding.rule, finding.group, finding.figure, finding.limit) == ("R", "view AP", "auc", 0.05)
    leak = only(tmp_path, gate_figures(leaks=(2, 0)), kind="no leak", figure="patients")
    assert leak.sentence == "2 patients are in two splits, allowed are none (train and test: 2)."


GOOD = rule(kind="at least", figure="auc", limit=0.5)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "no [[rule]] table"),
        ("rule = 3\n", 1, "no [[rule]] table"),
        ("[[rule]\n", 1, "Expected"),
        ("title = 'x'\n" + GOOD, 1, "unknown key 'title'"),
        (GOOD + "\n[other]\nx = 1\n", 7, "unknown key 'other'"),
        (GOOD + "limits = 3\n", 6, "unknown key 'limits' of a rule 'at least'; known are: "),
        (GOOD + "judged = 'measured'\n", 6, "unknown key 'judged'"),
        (
            GOOD + rule(name="S", kind="atleast", figure="auc", limit=1),
            8,
            "unknown kind 'atleast'; known are: not worse",
        ),
        (GOOD + rule(name="S", figure="auc", limit=1), 6, "no 'kind'"),
        (GOOD + GOOD, 7, "second rule is named 'R'"),
        (GOOD.replace('"R"', '""'), 2, "needs a name"),
        (GOOD.replace('"auc"', '"acu"'), 4, "unknown figure 'acu'; known are: auc"),
        (GOOD.replace("0.5", '"0.5"'), 5, "limit is a number"),
        (GOOD.replace("0.5", "nan"), 5, "limit is a number"),
        (GOOD.replace("limit = 0.5\n", ""), 1, "limit is a number, not None"),
        (rule(kind="not worse", figure="auc", limit=-0.1, judged="measured"), 5, "0 or more"),
        (rule(kind="not worse", figure="auc", limit=0.1), 1, "no 'judged'; known are: non-inferior"),
        (rule(kind="not worse", figure="images", limit=0.1, judged="measured"), 4, "unknown figure 'images'"),
        (rule(kind="not worse", figure="auc", limit=0.1, judged="noninferior"), 6, "unknown judged 'noninferior'"),
        (rule(kind="not worse", figure="auc", limit=0.1, judged="measured", sure=0.95), 7, "has none"),
        (rule(kind="at least", figure="images", limit=1, sure=0.95), 6, "has none"),
        (GOOD + "sure = 0.94\n", 6, "unknown sure 0.94; known are: 0.8, 0.9, 0.95"),
        (GOOD + "groups = ['sex', 'view LL']\n", 6, "unknown group 'view LL'; known are: view, sex, age, all"),
        (GOOD + "groups = 'sex'\n", 6, "groups is a list"),
        (GOOD + "groups = []\n", 6, "groups is a list"),
        (GOOD + "positives = -1\n", 6, "whole number"),
        (GOOD + "images = 2.5\n", 6, "whole number"),
        (GOOD + "optional = 'yes'\n", 6, "true or false"),
        (rule(kind="no leak", figure="labels"), 4, "unknown figure 'labels'; known are: patients, images"),
        (rule(kind="no leak", figure="images", limit=3), 5, "unknown key 'limit'"),
    ],
)
def test_a_wrong_file_is_named_with_its_line_and_what_is_known(tmp_path, text, line, says):
    with pytest.raises(GateError) as caught:
        rules(tmp_path, text)
    found = re.fullmatch(r"(.*):(\d+): (.*)", str(caught.value), re.DOTALL)
    assert found[1].endswith("gate.toml")
    assert int(found[2]) == line, str(caught.value)
    assert says in found[3]
    assert isinstance(caught.value, TrainingError)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(GateError, match=r"none\.toml"):
        Rules.load(tmp_path / "none.toml")


def test_a_verdict_survives_json():
    verdict = judge(Rules.load(), gate_figures({"auc": -0.1}))
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict


NAMES = st.sampled_from(sorted(MEASURES))
JUDGED = st.sampled_from(["non-inferior", "not clearly worse", "measured"])


@st.composite
def rule_of(draw):
    kind = draw(st.sampled_from(["not worse", "at least", "at most"]))
    keys = {"kind": kind, "figure": draw(NAMES), "limit": draw(st.floats(0, 1)), "groups": draw(
        st.lists(st.sampled_from(GROUPS), min_size=1, unique=True))}  # fmt: skip
    judged = draw(JUDGED) if kind == "not worse" else None
    if judged:
        keys["judged"] = judged
    if judged != "measured" and draw(st.booleans()):
        keys["sure"] = draw(st.sampled_from(LEVELS))
    return keys


@settings(deadline=None, max_examples=60)
@given(keys=rule_of(), gain=st.floats(0, 1), half=st.floats(0, 0.5))
def test_a_challenger_better_in_every_draw_never_fails_a_not_worse_rule(tmp_path_factory, keys, gain, half):
    folder = tmp_path_factory.getbasetemp()
    keys |= {"kind": "not worse"} | ({} if "judged" in keys else {"judged": "non-inferior"})
    figures = gate_figures({keys["figure"]: gain + 1.1 * half}, half=half)
    assert judge(rules(folder, rule(**keys)), figures).passed


@settings(deadline=None, max_examples=60)
@given(keys=rule_of(), gain=st.floats(-1, 1), value=st.floats(0, 1), worse=st.floats(0, 1), half=st.floats(0, 0.3))
def test_worsening_a_figure_never_turns_a_failure_into_a_pass(tmp_path_factory, keys, gain, value, worse, half):
    book, name = rules(tmp_path_factory.getbasetemp(), rule(**keys)), keys["figure"]
    # "at least" and "at most" say themselves which way is worse, whatever the figure
    sign = {"at least": -1, "at most": 1}.get(keys["kind"], 0)
    before = judge(book, gate_figures({name: gain}, {name: value}, half=half))
    after = judge(book, gate_figures({name: gain - worse}, {name: value + sign * worse}, half=half))
    for first, second in zip(before.findings, after.findings, strict=True):
        assert not (first.failed and second.passed)
        if first.failed:
            assert second.by >= first.by - 1e-9


@settings(deadline=None, max_examples=40)
@given(lost=st.sets(NAMES, min_size=1))
def test_losing_a_figure_never_helps(lost):
    whole = gate_figures({"auc": -0.1}, {"flip_rate": 0.5})
    holes = copy.deepcopy(whole)
    for name in lost:
        for table in (*(model["figures"] for model in holes["models"].values()), holes["differences"]):
            table[name] = {}
    before, after = judge(Rules.load(), whole), judge(Rules.load(), holes)
    for first, second in zip(before.findings, after.findings, strict=True):
        assert not (first.failed and second.passed)
        assert not second.passed or second.figure not in lost
