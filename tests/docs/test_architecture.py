"""docs/architecture.md names every room that the contracts of setup.cfg have, in their order."""

import configparser
import re

import pytest


@pytest.mark.parametrize(("package", "contract"), [("explain_core", "core"), ("training", "training")])
def test_the_drawing_has_every_room_in_the_order_of_the_contract(root, package, contract):
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    layers = config[f"importlinter:contract:{contract}"]["layers"].split("\n")
    rooms = [[room.strip() for room in layer.split("|")] for layer in layers if layer.strip()]
    page = (root / "docs" / "architecture.md").read_text()
    drawing = re.search(rf"## The rooms of {package}\n.*?```\n(.*?)```", page, re.DOTALL)[1]
    places = {}
    for number, line in enumerate(drawing.splitlines()):
        for room in re.split(r"\s{2,}", line)[0].split(" · "):
            places[room.rstrip("/")] = number
    assert set(places) == {room for layer in rooms for room in layer}
    lowest = -1
    for layer in rooms:
        numbers = sorted(places[room] for room in layer)
        assert numbers[0] > lowest, f"{layer} stands above what may use it"
        lowest = numbers[-1]
