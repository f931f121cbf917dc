"""The report of a training run and its model card: the verdict first, nothing from elsewhere, nobody named."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from gate_figures import halved, small_bundle, small_cohorts
from PIL import Image

from training.calibration import HEADING, section_of
from training.gate import Finding, Rules, Verdict, judge
from training.measure.comparison.compare import compare
from training.report.model_card import card, sheet
from training.report.page import html

pytestmark = pytest.mark.slow

JOB = {
    "id": "2026-0001",
    "name": "Trial",
    "settings": {"classifier": {"epochs": 3}},
    "lineage": {"parent_digest": "71ae", "code_version": "abc123", "seeds": {"train": 7}, "data_sha256": "d" * 64},
    "sources": ["exported 2026-01-01"],
}
HISTORY = {
    "classifier": [{"epoch": 1, "loss": 0.7, "auc": 0.6}, {"epoch": 2, "loss": 0.5, "auc": 0.7}],
    "generators": [{"step": 200, "flip_rate": 0.3, "note": "no number"}],
}
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """The text of a page, its attributes that load something, and whether its tags close."""

    def __init__(self, page):
        super().__init__()
        self.open, self.loads, self.headings, self.text, self.last = [], [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [value for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        assert tag not in {"script", "link", "iframe", "object"}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            assert "url(" not in data
            assert "@import" not in data
            return
        if self.open and self.open[-1] in {"h1", "h2", "h3"}:
            self.headings.append(data.strip())
        self.text.append(data)


@pytest.fixture(scope="module")
def cohorts(nih_folder):
    return small_cohorts(nih_folder)


@pytest.fixture(scope="module")
def figures(root, cohorts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    champion = halved(small_bundle(root / "dicom_node" / "bundles" / "default", folder), cohorts[0].images)
    shutil.copytree(champion, folder / "challenger")
    challenger = halved(folder / "challenger", cohorts[0].images, strength=0.1)
    return compare(
        champion, challenger, *cohorts, cases=6, draws=100, device="cpu", augmentations=1, cache=folder / "cache"
    )


@pytest.fixture(scope="module")
def verdict(figures):
    return judge(Rules.load(), figures)


@pytest.fixture(scope="module")
def page(figures, verdict):
    return html(figures, verdict, JOB, HISTORY)


def test_the_page_loads_nothing_from_elsewhere(page):
    found = Page(page)
    assert not found.open
    assert found.loads
    assert all(value.startswith("data:image/") for value in found.loads)
    assert "default-src 'none'" in page
    for value in found.loads:
        if value.startswith("data:image/svg"):
            drawn = base64.b64decode(value.partition(",")[2]).decode()
            assert not re.search(r'(href|src)="(?!#)', drawn)


def test_the_verdict_and_its_reasons_come_first(page, verdict):
    assert not verdict.passed
    text = " ".join(" ".join(Page(page).text).split())
    places = [text.index("REFUSED by the gate")]
    places += [text.index(" ".join(finding.sentence.split())) for finding in verdict.failures]
    assert places == sorted(places)
    assert places[-1] < text.index("Champion"), "before what the models are"
    assert all(finding.sentence in text for finding in verdict.findings)
    order = [
        "Rules", "Decisions", "Groups of patients", "Explanations", "Cases", "Training", "Data", "Lineage", "Settings",
    ]  # fmt: skip
    headings = [heading for heading in Page(page).headings if heading in order]
    assert headings == order


def test_the_page_holds_what_it_is_for(page, figures):
    text = " ".join(" ".join(Page(page).text).split())
    own = figures["models"]["challenger"]
    auc = own["figures"]["auc"]["all"]
    for needed in (
        f"{auc['value']:.3f}", f"{auc['interval'][0]:.3f} to {auc['interval'][1]:.3f}", "view PA", "sex F",
        "age under 40", "control: random", "mean of the training boxes", "abc123", '"epochs": 3', "71ae", "d" * 64,
        figures["data"]["test_sha256"], own["digest"], "exported 2026-01-01", "label by expert", "RESEARCH USE ONLY",
        "Gaussian of equal roughness", "Present when called present",
    ):  # fmt: skip
        assert needed in text, needed
    assert page.count("<figure class=") == 6
    assert page.count("data:image/svg+xml") == 3, "curves and two stages of training"


def test_models_differ_in_the_charts_by_more_than_colour(page):
    pictures = [value for value in Page(page).loads if value.startswith("data:image/svg")]
    curves = base64.b64decode(pictures[0].partition(",")[2]).decode()
    assert "stroke-dasharray" in curves
    assert "<pattern" in curves
    for text in ("challenger, AUC", "champion, AUC", "ROC", "recall", "Calibration"):
        assert text in curves


def test_nobody_is_named(page, cohorts):
    text = " ".join(Page(page).text)
    for cohort in cohorts:
        for name in cohort.names:
            assert name not in page
            assert name.partition(".")[0] not in page
    assert "/cases/" not in page
    assert "patient_id" not in text


def test_failures_are_shown_before_correct_cases(page):
    kinds = re.findall(r'<figure class="case ([^"]+)">', page)
    order = ["false negative", "false positive", "decision not changed", "models disagree", "correct"]
    assert kinds == sorted(kinds, key=order.index)


def test_the_page_repeats(page, figures, verdict):
    assert html(figures, verdict, JOB, HISTORY) == page


def test_a_passed_run_says_so_and_a_forced_one_why(figures, verdict):
    passed = Verdict(passed=True, findings=tuple(f for f in verdict.findings if not f.failed))
    text = " ".join(Page(html(figures, passed, {}, {})).text)
    assert "PASSED by the gate: 0 failed" in text
    assert "REFUSED" not in text
    assert "kept no history" in text
    forced = html(figures, verdict, JOB | {"forced": "new <scanner>"}, HISTORY)
    assert "Reason given: new &lt;scanner&gt;" in forced
    assert forced.index("Reason given") < forced.index("Rules</h2>")
    assert "Reason given: new \\<scanner>" in card(figures, verdict, JOB | {"forced": "new <scanner>"}, HISTORY)


def test_text_from_outside_is_text_and_not_markup(figures):
    evil = "<script>alert(1)</script>"
    finding = Finding(
        rule=evil,
        kind="at least",
        group="all",
        figure="auc",
        limit=0,
        value=None,
        by=None,
        outcome="failed",
        sentence=evil,
    )
    job = {"name": evil, "settings": {evil: evil}, "lineage": {evil: evil}, "sources": [evil]}
    page = html(figures, Verdict(passed=False, findings=(finding,)), job, {evil: [{"epoch": 1, evil: 0.1}]})
    assert "<script" not in page
    Page(page)


def test_what_was_not_measured_leaves_its_place_empty(figures, verdict):
    bare = {k: v for k, v in figures.items() if k not in {"localisation", "cases", "case_kinds"}}
    bare["models"] = {
        role: {k: v for k, v in model.items() if k not in {"roc", "pr", "calibration", "confusion", "localisation"}}
        | {"figures": {name: {} for name in model["figures"]}}
        for role, model in figures["models"].items()
    }
    bare["differences"] = {}
    page = html(bare, verdict, {}, {})
    assert "No test image has boxes" in page
    assert "No curve" in page
    assert "localisation was not measured" in card(bare, verdict, {}, {})


def test_pictures_given_as_bytes_or_moved_are_shown(figures, verdict, tmp_path):
    case = figures["cases"][0]
    shutil.copy(case["file"], tmp_path)
    gone = case | {"file": case["file"].replace("cases", "elsewhere")}
    assert "no longer there" in html(figures | {"cases": [gone]}, verdict, {}, {})
    moved = html(figures | {"cases": [gone]}, verdict, {}, {}, folder=tmp_path)
    picture = next(value for value in Page(moved).loads if value.startswith("data:image/png"))
    with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as image:
        assert image.width > 3 * image.height
    inline = {key: value for key, value in case.items() if key != "file"} | {"png": picture.partition(",")[2]}
    assert picture in html(figures | {"cases": [inline]}, verdict, {}, {})


def headings(text):
    return [line for line in text.splitlines() if line.startswith("#")]


def test_the_card_has_the_shape_of_every_bundles_card(figures, verdict, root):
    default = (root / "dicom_node" / "bundles" / "default" / "model_card.md").read_text()
    made = card(figures, verdict, JOB, HISTORY, provisional=default, training="- Our own radiographs, not published.")
    assert section_of(made).rstrip() == section_of(default).rstrip()
    assert headings(made)[1:-1] == headings(default)[1:-1]
    assert headings(made)[0] == "# Model card: {name} {version}".format(**figures["models"]["challenger"])
    assert "REFUSED by the gate" in made
    assert "- Our own radiographs, not published." in made
    assert HEADING not in card(figures, verdict, JOB, HISTORY)


def test_the_card_says_the_same_numbers_as_the_page(figures, verdict, page):
    made = card(figures, verdict, JOB, HISTORY)
    for group in figures["groups"]:
        auc = figures["models"]["challenger"]["figures"]["auc"].get(group)
        if auc:
            assert f"{auc['value']:.3f}" in made
            assert f"{auc['value']:.3f}" in page
    for before, after in zip(made.splitlines(), made.splitlines()[1:], strict=False):
        if before.startswith("|") and after.startswith("|"):
            count = [len(re.findall(r"(?<!\\)\|", line)) for line in (before, after)]
            assert count[0] == count[1]
    blocks = re.findall(r"```json\n(.*?)\n```", made, re.DOTALL)
    assert json.loads(blocks[0]) == JOB["settings"]
    assert [json.loads(line)["stage"] for line in blocks[1].splitlines()] == ["classifier", "classifier", "generators"]


def test_a_sheet_takes_ready_made_sections():
    sections = {name: f"text of {name}" for name in ("purpose", "training", "numbers", "limits", "settings", "history")}
    text = sheet(name="m", version="1", calibration=f"{HEADING}\nfigures\n", history_heading="H", **sections)
    assert headings(text)[0] == "# Model card: m 1"
    assert section_of(text) == f"{HEADING}\nfigures\n\n"
    for name, value in sections.items():
        assert value in text, name
