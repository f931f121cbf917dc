"""The same objects in dcmtk, which shares no code with what wrote them."""

import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from screen import agreement, blocks_of

from dicom_node.dicom import pixels

pytestmark = [pytest.mark.external, pytest.mark.slow]


def run(program: str, *arguments: str | Path) -> str:
    """What a program of dcmtk says; it must succeed."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} (dcmtk) is not installed; deploy/install-debian-packages.sh installs it")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def errors(said: str) -> list[str]:
    """The errors that a program of dcmtk reports, some of them without failing."""
    return re.findall(r"^[EF]: .*", said, re.MULTILINE)


def planes(ds) -> list[np.ndarray]:
    """The overlay planes 6000, 6002, ... of an image, as bits on its grid."""
    groups = sorted({element.tag.group for element in ds if 0x6000 <= element.tag.group <= 0x601E})
    return [ds.overlay_array(group) > 0 for group in groups]


def test_dcm2pnm_draws_each_overlay_plane_where_it_is(radiograph, tmp_path):
    (path,), (ds,) = radiograph.files["overlay"], radiograph.objects("overlay")
    bare = picture(path, tmp_path / "bare.pgm", "-O")
    found = planes(ds)
    assert len(found) == (1 if "segmentation" not in radiograph.files else 2)
    for number, bits in enumerate(found, start=1):
        drawn = picture(path, tmp_path / f"{number}.pgm", "+O", str(number), "--ovl-replace")
        draws_plane(drawn, bare, bits)
        with pytest.raises(AssertionError):
            draws_plane(drawn, bare, np.roll(bits, 1, axis=1))


def draws_plane(drawn, bare, bits) -> None:
    assert 0 < bits.mean() < 0.5
    assert np.array_equal(drawn[~bits], bare[~bits])
    assert (drawn[bits] == 255).all()
    assert (bare[bits] < 255).any()


def picture(path: Path, target: Path, *options: str) -> np.ndarray:
    """dcm2pnm's 8-bit rendering through the first window."""
    run("dcm2pnm", *options, "--write-raw-pnm", "+Wi", "1", path, target)
    return np.asarray(Image.open(target))


def test_dcm2pnm_shows_the_secondary_capture_to_the_bit(radiograph, tmp_path):
    (path,), (ds,) = radiograph.files["secondary_capture"], radiograph.objects("secondary_capture")
    run("dcm2pnm", "--write-raw-pnm", path, tmp_path / "sc.ppm")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sc.ppm")), ds.pixel_array)


def test_dsrdump_reads_the_structured_report(radiograph):
    for path in radiograph.files["structured_report"]:
        read = run("dsrdump", path)
        assert errors(read) == []
        assert '(,,"Imaging Measurement Report")=CONTINUOUS' in read
        assert re.search(r'NUM:\(,,"Probability"\)="\d+(\.\d+)?" \(%,UCUM,', read)
        assert re.search(r'SCOORD:\(,,"[^"]+"\)=\(POLYLINE,', read)


def test_dsr2html_turns_the_structured_report_into_a_page(radiograph, tmp_path):
    for path in radiograph.files["structured_report"]:
        assert errors(run("dsr2html", "+U8", path, tmp_path / "sr.html")) == []
        page = (tmp_path / "sr.html").read_text("utf-8")
        assert "<title>Comprehensive SR Document</title>" in page
        for wanted in ("Imaging Measurement Report", "Tracking Identifier", "Polyline", "NOT FOR DIAGNOSIS"):
            assert wanted in page


def test_the_presentation_state_does_not_invert_the_radiograph(radiograph, tmp_path):
    (state,) = radiograph.files["presentation_state"]
    source = uncompressed(radiograph, tmp_path)
    run("dcmp2pgm", "-p", state, source, tmp_path / "presented.pgm")
    presented = Image.open(io.BytesIO((tmp_path / "presented.pgm").read_bytes()))
    expected = blocks_of(Image.fromarray(np.uint8(pixels.radiograph(radiograph.source).pixels * 255)))
    assert agreement(blocks_of(presented), expected) > 0.95
    assert agreement(255 - blocks_of(presented), expected) < 0.5


def uncompressed(radiograph, folder: Path) -> Path:
    """The radiograph as dcmp2pgm can read it."""
    ds = radiograph.source
    if ds.file_meta.TransferSyntaxUID.is_compressed:
        run("dcmdjpeg", radiograph.path, folder / "source.dcm")
        return folder / "source.dcm"
    return radiograph.path


def test_the_presentation_state_passes_dcmpschk(radiograph):
    for path in radiograph.files["presentation_state"]:
        said = run("dcmpschk", path)
        assert "Testing: " in said
        assert errors(without_false_alarms(said)) == []


def without_false_alarms(said: str) -> str:
    """dcmpschk 3.6.7 rejects the offset from UTC +0000, although it has the form that it asks for: drop such lines."""
    complaint = r"E: Error: .*\nE: .*\nE: +Attribute value +: \[(.*)\]\nE: +Expected format .*?: (\S+)\nE: *\n"
    return re.sub(complaint, lambda found: "" if re.fullmatch(found[2], found[1]) else found[0], said)


def test_dcmpschk_is_believed_when_a_value_is_malformed(radiograph, tmp_path):
    ds = radiograph.objects("presentation_state")[0]
    ds.add_new("PresentationCreationDate", "LO", "yesterday")
    ds["PresentationCreationDate"].VR = "DA"
    ds.save_as(tmp_path / "bad.dcm")
    assert errors(without_false_alarms(run("dcmpschk", tmp_path / "bad.dcm"))) != []
