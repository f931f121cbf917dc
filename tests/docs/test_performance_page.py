"""docs/performance.md: figures stand between the marks, and what people wrote stays."""

import pytest
from bench import __main__ as bench


def test_figures_take_the_place_of_figures_and_words_stay(root):
    text = (root / "docs" / "performance.md").read_text()
    once = bench.page(text, {"startup": "## Starting\nAT ONCE\n", "explaining": "## Explanations\nOF EACH\n"})
    assert once.split(bench.BEGIN)[0] == text.split(bench.BEGIN)[0]
    assert once.index("OF EACH") < once.index("AT ONCE"), "in the order of the parts"
    again = bench.page(once, {"startup": "## Starting\nSOONER\n"})
    assert again == once.replace("AT ONCE", "SOONER"), "a part that was not measured stays"
    assert again.endswith(text.split(bench.END)[1])
    for name, heading in bench.PARTS.items():
        assert (f"\n## {heading}\n" in once) == (f"\n## {heading}\n" in text or name in ("startup", "explaining"))
    with pytest.raises(ValueError, match="no part has the heading 'Stopping'"):
        bench.page(once.replace("## Starting", "## Stopping"), {})
    with pytest.raises(ValueError, match="belong there once each"):
        bench.page(text.replace(bench.END, ""), {})
