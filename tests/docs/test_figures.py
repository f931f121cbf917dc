"""What the pages for readers say of the default model is what docs/model.md found."""

import re
import tomllib

import pytest

from dicom_node.dicom import reading
from dicom_node.dicom.pixels import radiograph
from dicom_node.settings.sections import DEFAULT_BUNDLE
from explain_core.explainer import open_bundle

SAID = [
    ("reading-a-heatmap.md", r"decisions changed by x_a \| ([\d.]+)", r"reverse the decision\? \| (\d+) of 100 films"),
    (
        "reading-a-heatmap.md",
        r"hottest tenth of the difference alone \| ([\d.]+)",
        r"hottest tenth alone\? \| (\d+) of 100",
    ),
    ("reading-a-heatmap.md", r"the same by a random tenth, in blocks \| ([\d.]+)", r"(\d+) of 100 with a random tenth"),
    (
        "reading-a-heatmap.md",
        r"difference without its hottest tenth \| ([\d.]+)",
        r"without the hottest tenth\? \| (\d+) of 100",
    ),
    ("reading-a-heatmap.md", r"pointing, delivered map \| ([\d.]+)", r"lie in a box\? \| (\d+) of 100"),
    ("reading-a-heatmap.md", r"after a shift of 2 px \| ([\d.]+)", r"of the model's grid\? \| 0\.(\d+) overlap"),
    (
        "reading-a-heatmap.md",
        r"second classifier's decision, positives \| ([\d.]+)",
        r"Of its changes (\d+) of 100 reverse",
    ),
    (
        "reading-a-heatmap.md",
        r"second classifier's decision, negatives \| ([\d.]+)",
        r"and (\d+) of 100 where both did not",
    ),
    ("reading-a-heatmap.md", r"AUC, opacity against other abnormal \| ([\d.]+)", r"the model is poor: AUC 0\.(\d+)"),
    (
        "reading-a-heatmap.md",
        r"\| delivered map \| [\d.]+ \(.*?\) \| [\d.]+ \(.*?\) \| ([\d.]+)",
        r"\| 0\.(\d+) \| 0\.23 with",
    ),
    ("intended-use.md", r"AUC, opacity against other abnormal \| ([\d.]+)", r"AUC 0\.(\d+) against other abnormal"),
    ("intended-use.md", r"turned by 90 degrees \| [\d.]+ \| ([\d.]+)%", r"upside down \| -(\d+), \d+ of 100"),
    ("intended-use.md", r"upside down \| [\d.]+ \| ([\d.]+)%", r"upside down \| \d+, -(\d+) of 100"),
    ("intended-use.md", r"mirrored \| [\d.]+ \| ([\d.]+)%", r"mirrored film \| -(\d+) of 100"),
    ("intended-use.md", r"decisions changed by x_a \| ([\d.]+)", r"does not reverse the decision \| -(\d+) of 100"),
    ("intended-use.md", r"pointing, delivered map \| ([\d.]+)", r"beside the lesion \| -(\d+) of 100"),
    (
        "intended-use.md",
        r"second classifier's decision, positives \| ([\d.]+)",
        r"network's own \| -(\d+) of 100 positives",
    ),
    ("risk.md", r"pointing, delivered map \| ([\d.]+)", r"outside every box in -(\d+) of 100"),
    ("risk.md", r"AUC, all labelled \| ([\d.]+)", r"AUC 0\.(\d+) over all labels"),
]
"""Page, where model.md has the figure, where the page says it in hundredths; with a minus: how many are left over."""


@pytest.mark.parametrize(("page", "found", "said"), SAID)
def test_a_page_says_what_was_found(root, page, found, said):
    left_over = "-(" in said
    (figure,) = re.findall(found, (root / "docs" / "model.md").read_text())[:1]
    text = re.sub(r"\s+", " ", (root / "docs" / page).read_text())
    (stated,) = re.findall(said.replace("-(", "("), text)
    hundredths = float(figure) if "." in figure and float(figure) > 1 else 100 * float(figure)
    assert abs((100 - hundredths if left_over else hundredths) - int(stated)) <= 0.501, (figure, stated)


def test_the_films_that_were_missed_are_counted(root):
    text = (root / "docs" / "model.md").read_text()
    boxed, called = (int(re.search(rf"\*\*{name}, (\d+) images", text)[1]) for name in ("all", "true positives"))
    for page in ("reading-a-heatmap.md", "intended-use.md", "risk.md"):
        said = re.sub(r"\s+", " ", (root / "docs" / page).read_text())
        assert f"{boxed - called} of {boxed} films with boxes" in said.replace(
            f"Of {boxed} films with boxes {boxed - called} were", f"{boxed - called} of {boxed} films with boxes"
        )


def test_the_page_on_training_has_the_limit_and_the_share_of_the_bundle_that_comes_along(root):
    text = re.sub(r"\s+", " ", (root / "docs" / "training.md").read_text())
    outlier = tomllib.loads((DEFAULT_BUNDLE / "bundle.toml").read_text())["outlier"]
    assert {float(one) for one in re.findall(r"limit (?:is|of) (\d+\.\d+)", text)} == {outlier["limit"]}
    assert re.search(rf"the limit of {outlier['limit']} rests on (\d+) images", text)[1] in outlier["measure"]
    share = re.search(r"turned by 90 degrees \| [\d.]+ \| ([\d.]+)%", (root / "docs" / "model.md").read_text())[1]
    assert f"calls {share} % far" in text


def test_distances_of_single_files_are_those_of_the_bundle(root, shared_data):
    text = re.sub(r"\s+", " ", (root / "docs" / "training.md").read_text())
    explainer, folder = open_bundle(DEFAULT_BUNDLE, device="cpu"), shared_data / "dicom"
    files = {
        "siim_one/siim_fake_mono1.dcm": r"declared MONOCHROME1 by mistake \(([\d.]+)\)",
        "nema_wg04/RG1_J2KI.dcm": r"a chest CR of 15 bits \(([\d.]+)\)",
    }
    for file, stated in files.items():
        found = explainer.classify(radiograph(reading.read(folder / file))).out_of_distribution
        assert f"{found.score:.1f}" == re.search(stated, text)[1], file


def test_no_page_has_an_index_install_what_is_in_none(root):
    pages = [root / "README.md", *(root / "docs").rglob("*.md")]
    assert [
        page.name for page in pages if re.search(r"pip install [^`\n]*dicom-explanation-node", page.read_text())
    ] == []
