"""Any bytes end in a result or in an error that the node has a name for; some thousands of them, the same each time."""

import random
import struct
from pathlib import Path

import pytest
import receiving
import strategies  # noqa: F401 - its Hypothesis profile
from fuzz import targets
from fuzz.mutations import mutated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from radiographs import encode, synthetic
from rude_peers import associated, p_data, store_command

from dicom_node.dicom import pixels, reading
from dicom_node.errors import DatasetUnreadable

MOST_GROWTH = 150 << 20
IN_CI = {"reading": 500, "rules": 500, "codestream": 1000, "pixels": 500, "decoders": 4, "fragments": 1000,
         "listener": 40}  # fmt: skip
"""Executions of each target."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", targets.TARGETS)
def test_any_bytes_end_in_what_is_foreseen(name):
    make_seeds, ready = targets.TARGETS[name]
    seeds = make_seeds()
    with ready() as run:
        for seed in seeds[:: 1 if name != "decoders" else 3]:
            run(seed)
        before = targets.resident()

        @settings(
            max_examples=IN_CI[name], derandomize=True, database=None, deadline=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(st.integers(0, len(seeds) - 1), st.integers(0, 2**32), st.integers(0, len(seeds) - 1))
        def fuzzed(which, edits, other):
            run(mutated(seeds[which], random.Random(edits), seeds[other]))  # noqa: S311

        fuzzed()
        assert targets.resident() - before < MOST_GROWTH


def test_the_seeds_are_many_and_the_edits_follow_from_the_seed():
    seeds = targets.files()
    assert len(seeds) > 30
    assert all(len(one) <= targets.LONGEST_SEED for one in seeds)
    assert mutated(seeds[0], random.Random(2)) == mutated(seeds[0], random.Random(2)) != seeds[0]  # noqa: S311


def test_what_a_target_does_not_foresee_is_raised(monkeypatch):
    def broken(*_):
        raise KeyError("a fault of ours")

    monkeypatch.setattr(targets.rules, "decide_study", broken)
    with targets.route() as run, pytest.raises(KeyError):
        run(encode(synthetic()))


# --- what was found, in its smallest form


def element(tag, vr, length, value=b""):
    """An element of an Explicit VR Little Endian data set; its length need not be that of its value."""
    form = "<HH2sHL" if vr in (b"OB", b"OW", b"UN") else "<HH2sH"
    rest = (0, length) if form.endswith("L") else (length,)
    return struct.pack(form, tag >> 16, tag & 0xFFFF, vr, *rest) + value


def test_an_element_that_says_it_is_longer_than_its_file_takes_no_memory(tmp_path):
    """A file object makes room for as many bytes as it is asked for: 2 GB, of a file of 100 kB."""
    import resource

    path = tmp_path / "long.dcm"
    path.write_bytes(encode(synthetic()) + element(0x7FE10010, b"UN", 0x7FFFFFF0, bytes(100)))
    _, hard = before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 30), hard))
    try:
        assert reading.read(path).Rows == 240
    except DatasetUnreadable:
        pass
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_data_set_that_ends_within_the_head_of_an_element_is_refused(tmp_path):
    """struct.error again."""
    path = tmp_path / "head.dcm"
    path.write_bytes(
        receiving.part10(
            element(0x00080005, b"CS", 2, b"X ") + element(0x00190010, b"OB", 8)[:10], ExplicitVRLittleEndian
        )
    )
    with pytest.raises(DatasetUnreadable, match="cannot be read"):
        reading.read(path)


@pytest.mark.parametrize("length", [2, 4, 6])
def test_encapsulated_pixel_data_that_break_off_in_their_first_item_are_refused(length):
    """struct.error is no ValueError."""
    ds = synthetic()
    ds.compress(RLELossless, generate_instance_uid=False)
    ds["PixelData"].value = ds.PixelData[:length]
    with pytest.raises(DatasetUnreadable, match="wrongly encapsulated"):
        pixels.render(ds)


@pytest.mark.parametrize("vr", [b"O\x08", b"LT", b"SQ", b"FL"])
def test_pixel_data_of_another_vr_are_refused(vr, tmp_path):
    data = encode(synthetic())
    path = tmp_path / "vr.dcm"
    path.write_bytes(data.replace(b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x10\x00" + vr))
    with pytest.raises(DatasetUnreadable):
        pixels.render(reading.read(path))


def test_a_uid_of_an_unknown_vr_is_a_data_set_that_cannot_be_understood(tmp_path):
    """pydicom raises NotImplementedError, of which the quarantine died: the peer was told of an error of ours."""
    body = receiving.data_set_bytes(receiving.radiograph(50), ExplicitVRLittleEndian)
    place = body.index(b"\x20\x00\x0e\x00UI") + 4
    damaged = body[:place] + b"U\x08" + body[place + 2 :]
    with receiving.running(tmp_path) as node, associated(node) as connection:
        connection.sendall(p_data(store_command(), header=0x03) + p_data(damaged, header=0x02))
        answer = connection.recv(4096)
        assert answer.split(b"\0\0\0\x09\2\0\0\0", 1)[1][:2] == b"\x00\xc0"
        assert len(node.files("quarantine")) == 1
        assert node.files("incoming") == node.files("instances") == []
