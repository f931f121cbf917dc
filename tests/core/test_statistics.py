"""Statistics of an image from known numbers, and the reference that drift is told by."""

import json

import numpy as np
import pytest
from toy_explainer import ToyExplainer

from explain_core.radiograph import Radiograph
from explain_core.statistics import OF_THE_IMAGE, image_statistics, load_reference, reference_of


def test_a_ramp_has_the_statistics_of_a_ramp():
    ramp = np.tile(np.arange(5, dtype=np.float32) / 10, (3, 1))
    found = image_statistics(ramp, (300, 600))
    assert tuple(found) == OF_THE_IMAGE
    assert found["mean"] == 0.2
    assert found["contrast"] == pytest.approx(np.sqrt(0.02), abs=1e-4)
    assert found["sharpness"] == pytest.approx(0.1 * 4 / 5), "every column but the last rises by a tenth"
    assert found["aspect"] == 2


def test_sharpness_is_the_length_of_the_gradient_and_falls_when_an_image_is_blurred():
    rows, columns = np.mgrid[:50, :50].astype(np.float32)
    slanted = image_statistics(0.003 * rows + 0.004 * columns, (50, 50))
    assert slanted["sharpness"] == pytest.approx(0.005, abs=2e-4)
    noise = np.random.default_rng(0).random((40, 40))
    smooth = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1) + np.roll(noise, (1, 1), (0, 1))) / 4
    assert image_statistics(smooth, (1, 1))["sharpness"] < image_statistics(noise, (1, 1))["sharpness"] / 1.5


def test_one_row_or_one_pixel_still_has_statistics():
    for shape in ((1, 1), (1, 7), (7, 1)):
        found = image_statistics(np.full(shape, 0.5, np.float32), shape)
        assert (found["mean"], found["contrast"], found["sharpness"]) == (0.5, 0, 0)


def test_a_reference_is_sorted_counted_and_read_back(tmp_path):
    made = reference_of({"mean": np.array([0.3, 0.123456, 0.2]), "probability": np.array([0.9, 0.1, 0.5])})
    assert made == {"images": 3, "statistics": {"mean": [0.1235, 0.2, 0.3], "probability": [0.1, 0.5, 0.9]}}
    path = tmp_path / "reference.json"
    path.write_text(json.dumps(made))
    assert load_reference(path) == made
    path.write_text(json.dumps(made | {"images": 4}))
    with pytest.raises(ValueError, match="says 4 images and has values of 3"):
        load_reference(path)


@pytest.mark.parametrize(
    "table", [{}, {"mean": []}, {"mean": [0.1], "aspect": [1.0, 2.0]}, {"mean": [0.1, np.nan]}], ids=str
)
def test_a_reference_that_is_none_is_refused(table):
    with pytest.raises(ValueError, match="statistic"):
        reference_of({name: np.array(row) for name, row in table.items()})


def test_the_toy_says_what_it_saw():
    pixels = np.linspace(0.2, 0.7, 100, dtype=np.float32)[:, np.newaxis].repeat(50, axis=1)
    radiograph = Radiograph(pixels=pixels, spacing=None, orientation=None, source_id="x")
    (explanation,) = ToyExplainer().explain(radiograph, ["similar_adversarial"])
    assert explanation.statistics == image_statistics(explanation.seen, (100, 50))
    assert ToyExplainer().classify(radiograph).statistics == explanation.statistics
    assert explanation.statistics["aspect"] == 0.5
