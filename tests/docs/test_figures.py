"""What the pages for readers say of the default model is what docs/model.md found."""

import re

import pytest

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
