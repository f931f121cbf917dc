"""docs/performance.md: figures stand between the marks, and what people wrote stays."""

import pytest
from bench import __main__ as bench


def test_figures_take_the_place_of_figures_and_words_stay(root):
    text = (root / "docs" / "performance.md").read_text()
    once = bench.page(text, {"startup": "## Starting\nfast", "explaining": "## Explanations\nOF EACH"})
    assert once.split(bench.BEGIN)[0] == text.split(bench.BEGIN)[0]
    assert once.index("OF EACH") < once.index("fast"), "in the order of the parts"
    again = bench.page(once, {"startup": "## Starting\nfaster"})
    assert "OF EACH" not in again
    assert again.endswith(text.split(bench.END)[1])
    with pytest.raises(ValueError, match="belong there once each"):
        bench.page(text.replace(bench.END, ""), {})
