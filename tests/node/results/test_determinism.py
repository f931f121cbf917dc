"""The same task gives the same bytes: in another process and in another place; and what changes them.

The real bundle explains the real film in processes of their own that differ in everything a host may differ in and
that is no part of the task. The number of threads is part of it, and so is the processor: with others the last bits of
a sum differ, which is why outcomes are rounded before they become part of a UID.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from contexts import every, film
from radiographs import REPOSITORY, encode, real, study_of, task_for
from toy_explainer import ToyExplainer

from dicom_node.dicom import reading
from dicom_node.explain import building, pipeline
from dicom_node.results import ResultOptions
from explain_core.explanation import ModelIdentity

SCRIPT = """
import hashlib, json, sys
from contexts import every
from radiographs import encode, real
from dicom_node.dicom import reading
from dicom_node.settings.sections import DEFAULT_BUNDLE
from explain_core.explainer import open_bundle
found = every(reading.read(real("RG1_UNCR.dcm")), explainer=open_bundle(DEFAULT_BUNDLE, device="cpu"))
print(json.dumps([(kind, str(ds.SOPInstanceUID), hashlib.sha256(encode(ds)).hexdigest()) for kind, ds in found]))
"""
HOSTS = [
    {"PYTHONHASHSEED": "1", "TZ": "UTC", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"},
    {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "LANG": "de_DE.UTF-8", "OMP_NUM_THREADS": "1", "HOSTNAME": "elsewhere"},
]


def elsewhere(host, folder):
    environment = {**os.environ, **host, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests' / 'node'}"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [tuple(one) for one in json.loads(done.stdout)]


@pytest.mark.slow
def test_every_object_has_the_same_bytes_on_two_hosts(tmp_path):
    one, other = (elsewhere(host, tmp_path) for host in HOSTS)
    assert len(one) >= 8
    assert one == other


def uids(*films, explainer=None, **options):
    return {
        (kind, str(ds.SOPInstanceUID))
        for kind, ds in every(*films, explainer=explainer, options=ResultOptions(**options))
    }


def test_a_changed_bundle_or_setting_gives_new_uids_and_a_predecessor():
    toy = ToyExplainer()
    retrained = replace(toy, identity=ModelIdentity(name="toy", version="0.0.2", digest="ab" * 32))
    before = every(film(), explainer=toy)
    for changes in ({"explainer": retrained}, {"explainer": toy, "options": ResultOptions(institution="Elsewhere")}):
        after = every(film(), earlier=[ds for _, ds in before], **changes)
        assert not {ds.SOPInstanceUID for _, ds in before} & {ds.SOPInstanceUID for _, ds in after}
        report = dict(after)["structured_report"]
        (study,) = report.PredecessorDocumentsSequence
        (series,) = study.ReferencedSeriesSequence
        (named,) = series.ReferencedSOPSequence
        assert named.ReferencedSOPInstanceUID == dict(before)["structured_report"].SOPInstanceUID


@pytest.mark.slow
def test_what_does_not_concern_the_task_changes_nothing():
    """When it is built, in which order the files came, and what was built before."""
    first = [(kind, encode(ds)) for kind, ds in every(film())]
    every(film(PatientID="other"))
    assert [(kind, encode(ds)) for kind, ds in every(film())] == first
    two = film(), film(SOPInstanceUID="1.2.3.4.9")
    assert uids(*two) == uids(*reversed(two))


def test_objects_of_the_same_profile_are_the_same_for_every_destination():
    ds = reading.read(real("RG1_UNCR.dcm"))
    study, read = study_of(ds)
    analysis = pipeline.analyse(task_for(study), study, read, ToyExplainer(), methods=["similar_adversarial"])
    plain, small = ResultOptions(), ResultOptions(long_edge=800)
    kinds = {one.kind: one.dataset.SOPInstanceUID for one in building.build(analysis, plain)}
    others = {one.kind: one.dataset.SOPInstanceUID for one in building.build(analysis, small)}
    assert kinds["structured_report"] == others["structured_report"]
    assert kinds["overlay"] == others["overlay"]
    assert kinds["secondary_capture"] != others["secondary_capture"]
