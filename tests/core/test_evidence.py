"""The method that shows the classifier's own map, against a slow twin."""

import math

import pytest
import torch

from explain_core.classifier import Tempered
from explain_core.classifiers.evidence_lite0 import EvidenceLite0
from explain_core.errors import FeaturesNeeded
from explain_core.method import obstacle
from explain_core.methods.evidence import Evidence
from explain_core.testing.classifier import ToyClassifier
from explain_core.testing.promises import check_method


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    network = EvidenceLite0(3)
    torch.nn.init.normal_(network.output.weight, std=1.0)
    return network.eval().requires_grad_(requires_grad=False)


def enlarged(cells, side):
    """Bilinear between the cells' centres, beyond the outermost ones the outermost value."""
    count = len(cells)

    def place(pixel):
        at = min(max((pixel + 0.5) * count / side - 0.5, 0), count - 1)
        first = min(int(at), count - 1)
        return first, min(first + 1, count - 1), at - first

    rows = []
    for row in range(side):
        top, bottom, down = place(row)
        line = []
        for column in range(side):
            left, right, across = place(column)
            upper = cells[top][left] * (1 - across) + cells[top][right] * across
            lower = cells[bottom][left] * (1 - across) + cells[bottom][right] * across
            line.append(upper * (1 - down) + lower * down)
        rows.append(line)
    return torch.tensor(rows)


def test_it_keeps_a_methods_promises(classifier):
    check_method(Evidence(), classifier, size=64)


def test_it_is_the_probability_of_each_cell_of_the_outputs_map(classifier):
    images, classes = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(4)), torch.tensor([2, 0])
    found, logits = Evidence()(classifier, images, classes), classifier.evidence(images)
    for image, output in enumerate(classes.tolist()):
        cells = [[1 / (1 + math.exp(-z)) for z in row] for row in logits[image, output].tolist()]
        torch.testing.assert_close(found[image, 0], enlarged(cells, 64), atol=1e-5, rtol=0)
    assert not torch.allclose(found[0], Evidence()(classifier, images, torch.tensor([1, 0]))[0], atol=1e-3)


def test_a_temperature_changes_no_map(classifier):
    images, classes = torch.rand(1, 1, 64, 64), torch.tensor([1])
    assert torch.equal(
        Evidence()(Tempered(classifier, 5.0).eval(), images, classes), Evidence()(classifier, images, classes)
    )


def test_a_classifier_without_a_map_is_refused_with_what_to_do():
    with pytest.raises(FeaturesNeeded, match=r"ToyClassifier has none; use another method, or .* evidence_lite0"):
        Evidence()(ToyClassifier(), torch.rand(1, 1, 16, 16), torch.tensor([0]))
    assert obstacle(Evidence, EvidenceLite0(1), ()) is None
    assert "needs a classifier with `evidence`" in obstacle(Evidence, ToyClassifier(), {"generators"})
