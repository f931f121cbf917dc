"""A method from a file reaches a destination: docs/extend.md's plug-in in a node of real processes."""

import contextlib
import re
import shutil
import subprocess
import sys
from io import BytesIO

import pytest
from contexts import items
from pydicom import dcmread
from radiographs import encode, synthetic
from working import CR_STORAGE, Peer, RedisServer, free_port, python, short_folder, wait_for

from dicom_node.deliver import scu
from dicom_node.errors import DeliveryUnreachable
from dicom_node.nouns import Destination
from dicom_node.storage.ledger import Ledger
from explain_core.blur import BLUR
from explain_core.bundles.bundle import load

ROLES = ("listener", "dispatcher", "worker", "sender")
CONFIG = """
[node]
port = {port}
calling_ae_titles = ["MODALITY"]
spool = "{folder}/spool"
database = "sqlite:///{folder}/ledger.sqlite"
low_water_mb = 0

[audit]
folder = "{folder}/audit"

[metrics]
folder = "{folder}/metrics"

[study]
quiet_seconds = 0.5

[broker]
url = "{redis}"

[model]
bundle = "{folder}/bundle"
device = "cpu"
augmentations = 2
method_folders = ["{folder}/my_methods"]

[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
methods = ["similar_adversarial", "occlusion"]

[[destinations]]
name = "research"
ae_title = "RESEARCH"
host = "127.0.0.1"
port = {research}
methods = ["occlusion"]
objects = ["secondary_capture", "structured_report"]
"""


@pytest.fixture(scope="module")
def folder(root, parts):
    """A small bundle with a scale for the method of docs/extend.md, which lies in a folder of its own."""
    with short_folder() as made:
        page = (root / "docs" / "extend.md").read_text()
        method_file = re.search(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[1]
        (made / "my_methods").mkdir()
        (made / "my_methods" / "occlusion.py").write_text(method_file)
        shutil.copytree(parts / "champion", made / "bundle")
        scale = ["scale", made / "bundle", "--method", "occlusion", "--method-folder", made / "my_methods"]
        data = ["--data", "phantom?size=32&train=8&validation=6&test=1"]
        argv = [sys.executable, "-m", "training", *map(str, scale), *data]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "### Heatmap: occlusion" in done.stdout
        yield made


@contextlib.contextmanager
def running(folder, pacs, research):
    """The node's roles as processes, with their settings in a file; gives the listener."""
    redis, port = RedisServer(folder), free_port()
    redis.start()
    config = folder / "node.toml"
    config.write_text(CONFIG.format(folder=folder, port=port, redis=redis.url, pacs=pacs.port, research=research.port))
    processes = []
    try:
        for role in ROLES:
            with (folder / f"{role}.log").open("ab") as log:
                command = ("-m", "dicom_node", "serve", "--only", role, "--config", str(config))
                processes.append(python(*command, stdout=log, stderr=log))
        yield Destination(name="x", ae_title="EXPLAIN", host="127.0.0.1", port=port)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
        redis.stop()


def sent(listener, ds) -> bool:
    """C-STORE as a modality would send it; False while nobody listens."""
    try:
        if scu.echo(listener, calling_ae_title="MODALITY", timeout=5) != 0:
            return False
    except DeliveryUnreachable:
        return False
    entity = scu._Entity("MODALITY")
    entity.add_requested_context(CR_STORAGE, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", listener.port, ae_title="EXPLAIN")
    assert association.is_established
    status = association.send_c_store(ds)
    association.release()
    return status.Status == 0


def received(peer):
    """The data sets that came, by what their series is called."""
    found = [dcmread(BytesIO(data), force=True) for _, _, data in peer.received]
    return {str(ds.SeriesDescription).split(" - AI ")[1].split(" - ")[0]: ds for ds in found}


@pytest.mark.slow
def test_a_method_from_a_file_reaches_a_destination(folder):
    assert set(load(folder / "bundle").heatmaps) == {"similar_adversarial", "occlusion"}
    pacs, research = Peer().start(), Peer(ae_title="RESEARCH").start()
    ds = dcmread(BytesIO(encode(synthetic(bits=8))))
    try:
        with running(folder, pacs, research) as listener:
            wait_for(lambda: sent(listener, ds), 60, "the listener")
            try:
                wait_for(lambda: len(pacs.received) == 5 and len(research.received) == 2, 120)
            except AssertionError:
                log = (folder / "worker.log").read_text()[-3000:]
                raise AssertionError(f"{[*received(pacs)]} {[*received(research)]}\n{log}") from None
    finally:
        pacs.stop()
        research.stop()
    own, others = received(research), received(pacs)
    assert set(own) == {"secondary capture, occlusion", "structured report"}
    methods = ("similar adversarial", "occlusion")
    kinds = ("secondary capture", "presentation state")
    assert set(others) == {f"{kind}, {method}" for kind in kinds for method in methods} | {"structured report"}
    picture = own["secondary capture, occlusion"]
    assert picture.SOPInstanceUID == others["secondary capture, occlusion"].SOPInstanceUID, "the same object for both"
    assert picture.SeriesNumber == 9911
    said = [str(item.TextValue) for item in items(own["structured report"]) if "TextValue" in item]
    assert {"occlusion", "method=occlusion", "occlusion.square=16", f"blur={BLUR}", "augmentations=2"} <= set(said)
    assert not [text for text in said if "similar_adversarial" in text]
    ledger = Ledger(f"sqlite:///{folder}/ledger.sqlite")
    assert ledger.counts()["studies"] == {"explained": 1}
    ledger.close()
