"""What the objects of an image share: the same bytes as without, and nothing is kept of an image that is gone."""

import dataclasses

import numpy as np
import pytest
from contexts import context_of, film
from radiographs import encode, study_of, task_for
from toy_explainer import ToyExplainer

from dicom_node.explain import building, pipeline
from dicom_node.results import ResultOptions
from dicom_node.results.once import once
from dicom_node.results.regions import places_of
from explain_core import zones

KINDS = (
    "secondary_capture",
    "overlay",
    "presentation_state",
    "segmentation",
    "synthetic_images",
    "structured_report",
    "report_page",
)


def anew(analysis):
    """The same, of which nothing has been computed yet."""
    return dataclasses.replace(
        analysis,
        explained=tuple(
            dataclasses.replace(
                image,
                radiograph=dataclasses.replace(image.radiograph, pixels=image.radiograph.pixels.copy()),
                explanations=tuple(
                    dataclasses.replace(one, attribution=dataclasses.replace(one.attribution))
                    for one in image.explanations
                ),
            )
            for image in analysis.explained
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("orientation", [["L", "F"], ["R", "H"], ["F", "L"], None])
def test_an_object_is_the_same_whatever_was_made_before_it(orientation):
    study, read = study_of(film(PatientOrientation=orientation))
    analysis = pipeline.analyse(task_for(study), study, read, ToyExplainer(), methods=["similar_adversarial"])

    def made(of, *names):
        results = building.build(of, ResultOptions(objects=names))
        return [encode(one.dataset) for one in results if one.kind in names]

    together = made(analysis, *KINDS)
    assert len(together) == len(KINDS) + 3
    assert sorted(together) == sorted(one for name in KINDS for one in made(anew(analysis), name))
    assert together == made(analysis, *KINDS)
    options = ResultOptions(objects=KINDS)
    assert dict(building.views(analysis, options)).keys() == dict(building.views(anew(analysis), options)).keys()


@pytest.mark.slow
@pytest.mark.parametrize("orientation", [("L", "F"), ("R", "H"), ("F", "L"), ("H", "R"), None])
def test_places_are_those_of_the_whole_map(orientation):
    context = context_of(film())
    generator = np.random.default_rng(1)
    pixels = generator.random((150, 110)).astype(np.float32)
    pixels[40:120, 10:45] /= 4  # one lung, near a corner: every way up has another box
    values = np.zeros_like(pixels)
    image = dataclasses.replace(
        context,
        image=dataclasses.replace(
            context.image, radiograph=dataclasses.replace(context.radiograph, pixels=pixels, orientation=orientation)
        ),
    )
    found = set()
    for row, column in generator.integers(0, (145, 105), (40, 2)):
        spot = values.copy()
        spot[row : row + 5, column : column + 5] = 1
        attribution = dataclasses.replace(
            context.explanation.attribution, values=spot, covered=np.ones(spot.shape, np.bool_)
        )
        shown = dataclasses.replace(
            image, explanation=dataclasses.replace(context.explanation, attribution=attribution)
        )
        found.add(places_of(shown))
        box = zones.lungs_box(zones.upright(pixels, orientation))

        def anew(evidence, box=box):
            rows, columns = np.nonzero(evidence)
            return zones.places_of(rows, columns, evidence[rows, columns], evidence.shape, box, orientation)

        assert places_of(shown) == anew(spot)
        half = np.zeros(spot.shape, np.bool_)
        half[: row + 2] = True
        assert places_of(shown, half) == anew(spot * half)
    assert len(found) > 3


def test_it_is_computed_once_for_an_array_and_forgotten_with_it():
    calls = []

    @once
    def total(array, factor):
        calls.append(factor)
        return factor * int(array.sum())

    one, other = np.ones(3), np.ones(5)
    assert [total(one, 2), total(one, 2), total(one, 3), total(other, 2)] == [6, 6, 9, 10]
    assert calls == [2, 3, 2]
    (known,) = (cell.cell_contents for cell in total.__closure__ if isinstance(cell.cell_contents, dict))
    assert len(known) == 2
    del one, other
    assert known == {}
