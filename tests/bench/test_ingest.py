"""What is told of the receivers' figures; the figures themselves are measured, not tested."""

import pytest

from bench import ingest

FIGURES = {
    "size": 10_000_000,
    "images": 20,
    "rounds": 3,
    "load": [0.5, 1.25],
    "alone": {"hash": 0.0104, "write": 0.003, "sync": 0.005},
    "runs": {
        "1": {
            "dicom-node": {"seconds": [2.0, 8.0, 4.0], "cpu": [0.6, 0.7, 0.5], "resident": {"idle": 8e7, "peak": 9e7}},
            "storescp": {"seconds": [1.0, 4.0, 3.0], "cpu": [0.2, 0.2, 0.2], "resident": {"idle": 1e7, "peak": 2e7}},
        },
        "4": {"dicom-node": {"seconds": [1.0] * 3, "cpu": [0.6] * 3, "resident": {"idle": 8e7, "peak": 9e7}}},
    },
}


def test_a_ratio_is_made_within_a_round():
    runs = FIGURES["runs"]["1"]
    assert ingest.ratio_of(runs, "dicom-node") == 0.5  # of 1/2, 4/8 and 3/4
    assert ingest.ratio_of(runs, "storescp") == 1
    assert ingest.ratio_of(runs, "storescp", base="dicom-node") == 2


def test_without_the_base_there_is_no_ratio():
    assert ingest.ratio_of(FIGURES["runs"]["4"], "dicom-node") is None


def test_the_section_has_a_row_for_each_server_and_number_of_associations():
    section = ingest.markdown(FIGURES)
    rows = [line for line in section.splitlines() if line.startswith("| ") and "server" not in line]
    assert rows == [
        "| 1 | dicom-node | 50 | 0.50 | 3.00 | 80 | 90 |",
        "| 1 | storescp | 67 | 1.00 | 1.00 | 10 | 20 |",
        "| 4 | dicom-node | 200 |  | 3.00 | 80 | 90 |",
    ]
    assert "SHA-256 10.4 ms" in section


def test_the_radiograph_is_a_real_one_of_a_usual_size(tmp_path):
    made = ingest.radiograph(tmp_path / "film.dcm")
    assert made.stat().st_size == pytest.approx(2 * ingest.ROWS * ingest.COLUMNS, rel=0.01)
