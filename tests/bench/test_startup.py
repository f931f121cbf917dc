"""What is told of starts; how long they take is measured, not tested."""

from bench import startup

FIGURES = {
    "rounds": 3,
    "load": [1.0, 2.0],
    "imports": {
        startup.LIBRARIES: {"seconds": [0.5, 0.6, 0.7], "cpu": [0.5, 1.0, 0.5], "resident": [9e7] * 3},
        "listener": {"seconds": [0.7, 0.6, 0.5], "cpu": [0.6, 1.0, 0.7], "resident": [7e7, 7.4e7, 8e7]},
    },
    "roles": {"listener": {"ready": 1.25, "resident": 84_000_000, "own": 60_000_000}},
}


def test_a_ratio_is_made_within_a_round():
    assert startup.ratio_of(FIGURES["imports"], "listener") == 1.2
    assert startup.ratio_of(FIGURES["imports"], startup.LIBRARIES) == 1


def test_the_section_has_a_row_for_each_import_and_each_role():
    lines = startup.markdown(FIGURES).splitlines()
    assert "| listener | 0.60 | 0.70 | 1.20 | 74 |" in lines
    assert "| listener | 1.2 | 84 | 60 |" in lines
    assert len([line for line in lines if line.startswith("| listener")]) == 2
