import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_controls_reproduce_the_published_rows(shared_data, tmp_path):
    out = tmp_path / "controls.json"
    subprocess.run(
        [sys.executable, "-m", "training", "controls", str(shared_data / "rsna_annotations"), "--json", str(out)],
        check=True,
        capture_output=True,
    )
    figures = json.loads(out.read_text())
    assert figures["positive_test_patients"] == 569
    rounded = {name: [round(v, 3) for v in row] for name, row in figures["iou"].items()}
    assert rounded["location_prior"] == [0.289, 0.279, 0.247, 0.175, 0.095]
    assert rounded["perfect_mask"] == [0.466, 0.507, 0.534, 0.491, 0.317]


def test_a_folder_without_annotations_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "training", "controls", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "stage_2_train_labels.csv is missing" in done.stderr
