import importlib
import re
import sys

import pytest
import torch

from explain_core import plugins
from explain_core.testing.classifier import ToyClassifier

METHODS = "explain_core.methods"


@pytest.fixture
def page(root):
    """The Python blocks of docs/extend.md: the method's file, and how it is used."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (root / "docs" / "extend.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    return blocks


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder `my_methods` in the working directory; what is loaded from it is forgotten."""
    package = importlib.import_module(METHODS)
    searched, loaded, names = list(package.__path__), set(sys.modules), set(vars(package))
    folder = tmp_path / "my_methods"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    yield folder
    package.__path__[:] = searched
    for name in {name for name in sys.modules if name.startswith(METHODS)} - loaded:
        del sys.modules[name]
    for name in set(vars(package)) - names:
        delattr(package, name)


def test_the_example_of_the_documentation_can_be_added_loaded_and_checked(page, folder):
    method_file, use = page
    (folder / "occlusion.py").write_text(method_file)
    with pytest.raises(LookupError, match="no 'occlusion'"):
        plugins.load(METHODS, "occlusion")
    exec(compile(use, "docs/extend.md", "exec"), {})  # noqa: S102 - the documentation's own commands
    assert "occlusion" in plugins.available(METHODS)
    occlusion = plugins.load(METHODS, "occlusion")
    assert occlusion.__module__ == f"{METHODS}.occlusion"
    classifier = ToyClassifier()
    image = torch.zeros(1, 1, 8, 8)
    image[..., :4, 4:] = 1
    maps = occlusion(square=4)(classifier, image, torch.tensor([1]))
    hidden = image.clone()
    hidden[..., :4, 4:] = 0.5
    fall = float(classifier(image)[0, 1] - classifier(hidden)[0, 1])
    assert maps[0, 0, :4, 4:].unique().tolist() == pytest.approx([max(fall, 0)])
    assert float(maps.max()) > 0


def test_the_example_is_gone_when_its_folder_is():
    assert "occlusion" not in plugins.available(METHODS)
    with pytest.raises(LookupError, match=r"explain_core\.methods has no 'occlusion'; there is: .*grad_cam, gradient"):
        plugins.load(METHODS, "occlusion")


def test_a_folder_is_added_once_by_whatever_path(folder):
    package = importlib.import_module(METHODS)
    before = len(package.__path__)
    plugins.add_folder(METHODS, folder)
    plugins.add_folder(METHODS, folder.relative_to(folder.parent))
    assert len(package.__path__) == before + 1


def test_a_file_written_after_its_folder_was_added_is_found(page, folder):
    plugins.add_folder(METHODS, folder)
    plugins.available(METHODS)
    (folder / "occlusion.py").write_text(page[0])
    assert plugins.load(METHODS, "occlusion").__name__ == "Occlusion"


def test_a_folder_may_not_hide_or_be_hidden(page, folder):
    (folder / "gradient.py").write_text(page[0])
    with pytest.raises(ValueError, match=r"already has gradient; rename the file in .*my_methods"):
        plugins.add_folder(METHODS, folder)
    assert plugins.load(METHODS, "gradient").__name__ == "Gradient"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotADirectoryError, match="nowhere is no folder"):
        plugins.add_folder(METHODS, tmp_path / "nowhere")


def test_a_file_without_a_plugin_is_named_and_a_private_one_is_none(folder):
    (folder / "empty.py").write_text("x = 1\n")
    (folder / "_helper.py").write_text("PLUGIN = 1\n")
    plugins.add_folder(METHODS, folder)
    with pytest.raises(LookupError, match=r"empty\.py defines no PLUGIN"):
        plugins.load(METHODS, "empty")
    with pytest.raises(LookupError, match="no '_helper'"):
        plugins.load(METHODS, "_helper")
