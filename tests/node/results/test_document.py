"""docs/results.md against the objects: every attribute that is set is named there."""

from contexts import every, film
from radiographs import REPOSITORY

from dicom_node.results import ResultOptions
from dicom_node.results.header import INHERITED
from explain_core import plugins

GEOMETRY = {
    "FrameOfReferenceUID": "1.2.3.4.77",
    "PositionReferenceIndicator": "",
    "ImagePositionPatient": [0.0, 0.0, 0.0],
    "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 0.0, -1.0],
}


def test_every_attribute_is_in_the_document():
    text = (REPOSITORY / "docs" / "results.md").read_text()
    found = every(film(**GEOMETRY), options=ResultOptions(compression="jpeg"))
    assert {kind for kind, _ in found} == set(plugins.available("dicom_node.results.objects"))
    for kind, ds in found:
        assert f"`{kind}`" in text
        for element in ds:
            if element.keyword in INHERITED:
                continue
            group, number = element.tag.group, element.tag.element
            name = f"`{element.keyword}`" if group < 0x6000 or group > 0x60FF else f"({group:04X},{number:04X})"
            known = name in text or name.replace("(6002", "(6000") in text
            assert known, f"{kind}: {name} is not in docs/results.md"
