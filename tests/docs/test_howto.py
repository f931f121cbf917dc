"""The files that the how-to pages let people write do what the pages say."""

import importlib
import json
import re
import sys
import textwrap
import tomllib

import onnx
import pytest
from contexts import built, context_of, errors_of, film

from dicom_node.route.rules import Action, decide_instance
from dicom_node.settings.loading import load_settings
from explain_core import plugins
from explain_core.blur import BLUR
from explain_core.bundles import bundle
from explain_core.bundles.files import write_sums
from training.retrain import job

CLASSIFIERS, OBJECTS = "explain_core.classifiers", "dicom_node.results.objects"


@pytest.fixture
def blocks(root):
    """The fenced blocks of a page in one language."""

    def of(page, language):
        text = (root / "docs" / page).read_text()
        return [textwrap.dedent(block) for block in re.findall(rf"(?ms)^ *```{language}\n(.*?)^ *```$", text)]

    return of


@pytest.fixture
def added(tmp_path):
    """Let a package of plug-ins have one more file; what is loaded from it is forgotten."""
    before = {name: list(importlib.import_module(name).__path__) for name in (CLASSIFIERS, OBJECTS)}
    loaded = set(sys.modules)

    def add(package, name, text):
        (tmp_path / f"{name}.py").write_text(text)
        plugins.add_folder(package, tmp_path)

    yield add
    for package, path in before.items():
        importlib.import_module(package).__path__[:] = path
    for name in set(sys.modules) - loaded:
        package, _, module = name.rpartition(".")
        if package in before:
            vars(sys.modules[package]).pop(module, None)
            del sys.modules[name]


def test_the_classifier_of_the_page_keeps_the_promises(blocks, added):
    file, check = blocks("howto-add-classifier.md", "python")
    added(CLASSIFIERS, "small", file)
    exec(compile(check, "docs/howto-add-classifier.md", "exec"), {})  # noqa: S102 - the page's own commands


def test_the_job_of_the_page_is_one(blocks, tmp_path):
    file = tmp_path / "job.toml"
    file.write_text(blocks("howto-add-classifier.md", "toml")[0])
    assert job.load(file).classifier.architecture == "small"


def test_the_bundle_of_the_page_is_read(blocks, tmp_path):
    description = blocks("howto-add-classifier.md", "toml")[1]
    (tmp_path / "bundle.toml").write_text(description)
    (tmp_path / "model_card.md").write_text("Theirs.\n")
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        onnx.helper.make_node("Flatten", ["mean"], ["logits"]),
    ]
    size = tomllib.loads(description)["input"]["size"]
    ends = {"x": ["N", 1, size, size], "logits": ["N", 1]}
    images, logits = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ends[name]) for name in ends)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "mean", [images], [logits]),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "classifier.onnx")
    write_sums(tmp_path)
    found = bundle.load(tmp_path)
    assert (found.label, found.generators, set(found.heatmaps)) == ("Lung opacity", None, {"occlusion"})
    assert found.heatmaps["occlusion"].blur == BLUR, "that of `training scale` where a table names none"


def test_the_result_object_of_the_page_is_a_valid_one(blocks, added, tmp_path):
    (file,) = blocks("howto-add-result.md", "python")
    added(OBJECTS, "heatmap_alone", file)
    builder = plugins.load(OBJECTS, "heatmap_alone")
    context = context_of(film())
    made = built(builder, context)
    assert errors_of(made, tmp_path) == []
    assert "NOT FOR DIAGNOSIS" in made.SeriesDescription
    assert made.pixel_array.max() > 200
    assert built(builder, context) == made


def test_the_settings_of_the_page_are_read(blocks, tmp_path):
    (text,) = blocks("howto-connect-pacs.md", "toml")
    (tmp_path / "node.toml").write_text(text)
    assert load_settings(tmp_path / "node.toml", {}).destination("pacs").ae_title == "PACS"


@pytest.mark.parametrize(
    ("age", "ignored"),
    [("017Y", True), ("009Y", True), ("006M", True), ("018Y", False), ("091Y", False), ("100Y", False), ("", False)],
)
def test_the_rule_against_children_takes_children_alone(blocks, tmp_path, age, ignored):
    (text,) = blocks("intended-use.md", "toml")
    (tmp_path / "node.toml").write_text(text)
    given = load_settings(tmp_path / "node.toml", {}).rules
    decided = decide_instance(film(PatientAge=age), "PACS", given)
    assert decided.action is (Action.IGNORE if ignored else Action.EXPLAIN)


def test_the_settings_of_the_tutorial_and_of_its_pacs_fit(root):
    settings = load_settings(root / "deploy" / "tutorial" / "node.toml", {})
    pacs = json.loads((root / "deploy" / "tutorial" / "orthanc.json").read_text())
    there = settings.destination("test-pacs")
    assert (there.ae_title, there.host, there.port) == (pacs["DicomAet"], "127.0.0.1", pacs["DicomPort"])
    node = {"AET": settings.node.ae_title, "Host": settings.node.host, "Port": settings.node.port}
    assert pacs["DicomModalities"] == {"node": node}
    assert [one.partition("@")[0] for one in settings.node.calling_ae_titles] == [pacs["DicomAet"]]
    assert (root / "deploy" / "tutorial" / pacs["LuaScripts"][0]).is_file()
