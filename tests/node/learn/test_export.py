"""dicom-node export: from what a listener received to a folder that training reads, and nothing of a patient in it."""

import csv
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import zlib
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import receiving
from exporting import NOW, ROOT, Node, bytes_of, film, manifest_of
from PIL import Image, PngImagePlugin
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian
from radiographs import change, real, reread, shared

from dicom_node.dicom import pixels
from dicom_node.errors import OutOfResources
from dicom_node.learn import pseudonyms
from dicom_node.learn.export import ExportRefused, IdentifierFound, NothingExported, recheck, run
from dicom_node.learn.export.folder import Draft, fixed_text
from dicom_node.storage.key_file import KeyUnusable, secret_key

CHARACTER_SETS = {
    "ISO_IR 192": "Καναρίνι^Κίτρινο",
    "ISO_IR 100": "Kanarienvögel^Grüß",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
}


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def send(node, ds):
    syntax = ds.file_meta.TransferSyntaxUID
    with node.associated(contexts=[(ds.SOPClassUID, [syntax])]) as association:
        assert association.send_c_store(ds).Status == 0


def of_real_files():
    """Real radiographs of several makers and transfer syntaxes, and one of them with names in three character sets."""
    names = ("RG1_UNCR.dcm", "RG1_J2KR.dcm", "siim_one/siim_fake_mono1.dcm")
    nih = [dcmread(shared(f"nih_google_udacity/test{number}.dcm")) for number in (1, 2)]
    for number, (charset, name) in enumerate(CHARACTER_SETS.items(), start=1):
        ds = dcmread(shared("nih_google_udacity/test3.dcm"))
        study = f"{ROOT}.9{number}"
        ds.SpecificCharacterSet = charset.split("\\") if charset.startswith("\\") else charset
        change(
            ds,
            {
                "StudyInstanceUID": study,
                "SeriesInstanceUID": f"{study}.1",
                "SOPInstanceUID": f"{study}.1.1",
                "PatientName": name,
                "PatientID": f"KENNUNG-{number}",
                "PatientAddress": "Vogelsangweg 17",
                "PatientBirthDate": "19330405",
                "StudyDate": "20240506",
                "AccessionNumber": f"AKZ-00{number}",
                "InstitutionName": "Kanarienspital",
                "ReferringPhysicianName": "Zugweiser^Egon",
            },
        )
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        nih.append(ds)
    return [*(dcmread(real(name)) for name in names), *nih]


@pytest.mark.slow
def test_real_radiographs_become_a_training_set_in_which_nothing_of_a_source_is_found(tmp_path):
    from training import datasets

    sources = of_real_files()
    with receiving.running(tmp_path) as listening:
        for ds in sources:
            send(listening, ds)
    node = Node(tmp_path)
    studies = {str(ds.StudyInstanceUID): ds for ds in sources}
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "study_instance_uid,target\n" + "".join(f"{uid},{number % 2}\n" for number, uid in enumerate(studies))
    )
    out = tmp_path / "out"
    done = node.run("export", "--out", out, "--labels", labels, "--json")
    report = json.loads(done.stdout)
    assert report["images"] == len(sources) == 8
    dataset = datasets.read(f"studies:{out}")
    assert len(dataset) == report["images"]
    assert not dataset.problems
    assert {sample.target for sample in dataset} == {0, 1}
    assert len({sample.patient_id for sample in dataset}) == report["patients"]
    content = bytes_of(out)
    for ds in sources:
        for form in identifying(ds):
            assert form.encode() not in content, form
    for canary in (b"kanarien", b"kennung", b"vogelsang", b"zugweiser", b"akz-00", b"compressedsamples", b"philips"):
        assert canary not in content.lower()
    for part in (part for name in CHARACTER_SETS.values() for part in name.replace("=", "^").split("^")):
        for encoding in ("utf-8", "iso2022_jp", "latin-1", "utf-16-le"):
            encoded = part.encode(encoding, "ignore")
            assert len(encoded) < 5 or encoded not in content, (part, encoding)


def identifying(ds):
    """What the header says of the patient and the stay, whole and in parts, long enough not to be there by chance."""
    words = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber", "InstitutionName")
    for word in (*words, "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        value = str(ds.get(word) or "")
        yield from (form for form in {value, *value.replace("=", "^").split("^")} if len(form) >= 5)


def test_pixels_are_those_that_the_model_sees(tmp_path):
    source = film(1, PhotometricInterpretation="MONOCHROME1", WindowCenter="2000", WindowWidth="3000")
    node = Node(tmp_path).receive(source)
    node.export(unlabelled=True)
    (row,) = rows_of(tmp_path / "out" / "labels.csv")
    with Image.open(tmp_path / "out" / row["file"]) as image:
        assert image.mode == "I;16"
        written = np.asarray(image).astype(np.float64) / 65535
    assert np.abs(written - pixels.radiograph(source).pixels).max() <= 0.5001 / 65535
    assert manifest_of(tmp_path / "out")["images"][row["file"]] == {"modality": "CR", "photometric": "MONOCHROME1"}


def test_the_table_says_who_is_one_patient_and_nothing_else(tmp_path):
    node = Node(tmp_path).receive(
        film(1, PatientAge="095Y", PatientSex="M", ViewPosition="AP"),
        film(2, PatientID="CANARY1", PatientAge="018M"),
        film(3, PatientID="CANARY1", IssuerOfPatientID="ELSEWHERE"),
        film(4, PatientID=None, PatientAge=None, PatientBirthDate="19500507", StudyDate="20240506", PatientSex="X"),
        film(5, PatientID="", PatientAge="unknown", PatientBirthDate=None),
    )
    report = node.export(unlabelled=True)
    rows = {row["study"]: row for row in rows_of(tmp_path / "out" / "labels.csv")}
    names = run.Pseudonyms(secret_key(tmp_path / "export.key"))
    one, two, _, four, five = (rows[names.study(f"{ROOT}.{number}")] for number in range(1, 6))
    assert (one["age"], one["sex"], one["view"]) == ("90", "M", "AP")
    assert (two["age"], four["age"], four["sex"], five["age"]) == ("1", "73", "", "")
    assert one["patient_id"] == two["patient_id"]
    assert len({row["patient_id"] for row in rows.values()}) == 4
    assert report.without_id == [f"{ROOT}.4", f"{ROOT}.5"]
    assert set(one) == {"file", "patient_id", "study", "target", "target_source", "verdict", "view", "sex", "age"}


def test_the_manifest_lists_every_file_and_how_it_was_made(tmp_path):
    Node(tmp_path).receive(film(1), film(2)).export(unlabelled=True)
    manifest, out = manifest_of(tmp_path / "out"), tmp_path / "out"
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    del files["manifest.json"]
    assert manifest["files"] == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert manifest["counts"] == {"images": 2, "patients": 2, "studies": 2, "boxes": 0}
    assert [code["value"] for code in manifest["deidentification"]["codes"]] == ["113100", "113108"]
    assert manifest["created_at"] == "2026-03-01T12:00:00+00:00"


def test_what_is_not_exported_is_listed_with_the_reason(tmp_path):
    node = Node(tmp_path).receive(
        film(1),
        film(2, BurnedInAnnotation="YES"),
        film(3, ViewPosition="LL"),
        film(4, Modality="CT"),
        film(5, PixelData=b"\0\0" * 100),
    )
    report = node.export(unlabelled=True)
    assert report.images == 1
    reasons = {one.study_instance_uid.rsplit(".", 1)[1]: one.reason for one in report.left_out}
    assert set(reasons) == {"2", "3", "4", "5"}
    assert "Burned In Annotation YES" in reasons["2"]
    assert "lateral" in reasons["3"]
    assert "truncated" in reasons["5"]


def test_only_what_came_since_a_day(tmp_path):
    before = film(3, study=f"{ROOT}.2")
    early = NOW - timedelta(days=9)
    node = Node(tmp_path).receive(film(1), before, at=early).receive(film(2))
    node.run("export", "--out", tmp_path / "out", "--unlabelled", "--since", "2026-02-28")
    assert len(rows_of(tmp_path / "out" / "labels.csv")) == 1
    labels = tmp_path / "both.csv"
    labels.write_text("accession_number,target\n00177,1\n00277,0\n")
    node.run("export", "--out", tmp_path / "two", "--labels", labels, "--since", "2026-02-28")
    assert [row["target"] for row in rows_of(tmp_path / "two" / "labels.csv")] == ["0"]


def test_the_same_names_again_and_others_with_another_key_which_must_be_asked_for(tmp_path):
    node = Node(tmp_path).receive(film(1), film(2))
    for out in ("one", "two"):
        node.export(out, unlabelled=True)
    first, second = ((tmp_path / out / "labels.csv").read_bytes() for out in ("one", "two"))
    assert first == second
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    key = tmp_path / "export.key"
    known = manifest_of(tmp_path / "one")["deidentification"]["key_fingerprint"]
    assert known == pseudonyms.fingerprint(secret_key(key))
    with pytest.raises(KeyUnusable, match="with this key; move it away"):
        node.export("three", unlabelled=True, new_key=True)
    kept = key.rename(tmp_path / "copy.key")
    done = node.run("export", "--out", tmp_path / "three", "--unlabelled", expect=1)
    assert f"restore the key with the fingerprint {known} from a copy" in done.stderr
    assert "--new-key" in done.stderr
    assert not key.exists()
    secret_key(key)  # as somebody makes it who does not know
    with pytest.raises(KeyUnusable, match="with another key"):
        node.export("three", unlabelled=True)
    node.run("export", "--out", tmp_path / "three", "--unlabelled", "--new-key")
    assert manifest_of(tmp_path / "three")["deidentification"]["key_fingerprint"] != known
    node.export("four", unlabelled=True)
    kept.replace(key)
    with pytest.raises(KeyUnusable, match="with another key"):
        node.export("five", unlabelled=True)
    names = [{row["file"] for row in rows_of(tmp_path / out / "labels.csv")} for out in ("one", "three")]
    assert not names[0] & names[1]


def test_studies_without_a_label_are_counted_and_left_out(tmp_path):
    node = Node(tmp_path).receive(film(1), film(2))
    report = node.export(labels="accession_number,target\n00177,opacity\n")
    assert (report.images, report.unlabelled) == (1, [f"{ROOT}.2"])
    assert dict(report.sources) == {"csv": 1}
    both = node.export("both", labels="accession_number,target\n00177,opacity\n", unlabelled=True)
    assert dict(both.targets) == {"1": 1, "": 1}
    done = node.run("export", "--out", tmp_path / "no", expect=1)
    assert "no image with a target" in done.stderr
    assert "received studies without a label" in done.stdout
    assert not (tmp_path / "no").exists()


def test_an_export_of_nothing_says_what_was_left_out_and_why(tmp_path):
    node = Node(tmp_path).receive(
        film(1, BurnedInAnnotation="YES"), film(2, BurnedInAnnotation="YES"), film(3, ViewPosition="LL"), film(4)
    )
    with pytest.raises(NothingExported) as nothing:
        node.export(labels="accession_number,target\n00177,1\n00277,0\n00377,0\n")
    said = str(nothing.value)
    assert f"2 image(s): {run.BURNED_IN}; 1 image(s): " in said
    assert "lateral" in said
    assert "1 of the studies: no image with a target (give --labels" in said
    assert not (tmp_path / "out").exists()
    done = node.run("export", "--out", tmp_path / "out", "--labels", tmp_path / "labels.csv", "--json", expect=1)
    assert json.loads(done.stderr)["error"] == said
    assert len(json.loads(done.stdout)["left_out"]) == 3


def test_a_wrong_table_of_labels_exports_nothing_and_says_all_that_is_wrong(tmp_path):
    node = Node(tmp_path).receive(film(1), film(2))
    labels = tmp_path / "labels.csv"
    labels.write_text("accession_number,target\n00177,maybe\nNOBODY,1\n")
    done = node.run("export", "--out", tmp_path / "out", "--labels", labels, expect=1)
    assert "2 problem(s); nothing was exported" in done.stderr
    assert "NOBODY" not in done.stdout + done.stderr, "a cell may name somebody: the line says where to look"
    assert "maybe" not in done.stdout + done.stderr
    done = node.run("export", "--out", tmp_path / "out", "--labels", labels, "--json", expect=1)
    assert [one["line"] for one in json.loads(done.stdout)["problems"]] == [2, 3]
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_two_studies_with_one_accession_number_are_named(tmp_path):
    node = Node(tmp_path).receive(film(1), film(2, AccessionNumber="00177"))
    with pytest.raises(run.labels.LabelsWrong) as refused:
        node.export(labels="accession_number,target\n00177,1\n")
    (problem,) = refused.value.problems
    assert f"{ROOT}.1, {ROOT}.2" in problem.what


def test_a_folder_that_is_there_stays_as_it_is(tmp_path):
    node = Node(tmp_path).receive(film(1))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ExportRefused, match="is there already"):
        node.export(unlabelled=True)
    assert list(out.iterdir()) == []
    with pytest.raises(ExportRefused, match="no such folder"):
        node.export("nowhere/out", unlabelled=True)


@pytest.mark.parametrize(
    "leak",
    ["PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "InstitutionName", "AccessionNumber"],
)
def test_an_identifier_in_a_table_refuses_the_export_and_deletes_it(tmp_path, monkeypatch, leak):
    source = film(1, PatientName="Wellensittich^Blau", PatientID="4711-0815", AccessionNumber="00177")
    node = Node(tmp_path).receive(source)
    monkeypatch.setattr(run.Pseudonyms, "study", lambda *_: str(source[leak].value))
    with pytest.raises(IdentifierFound) as found:
        node.export(unlabelled=True)
    assert leak.removeprefix("Study") in str(found.value), "parts of a UID may be in another one too"
    assert str(source[leak].value) not in str(found.value)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def picture_of(pixels):
    """A PNG of one row of 16-bit pixels that are these bytes, neither filtered nor compressed."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", len(pixels) // 2, 1, 16, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + pixels, 0)),
        (b"IEND", b""),
    )
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def exported(tmp_path, source):
    """A sound export of one film: its folder, and what the re-check is told of it."""
    Node(tmp_path).receive(source).export(unlabelled=True)
    (row,) = rows_of(tmp_path / "out" / "labels.csv")
    (path,) = (tmp_path / "spool" / "instances").rglob("*.dcm")
    return tmp_path / "out", [(row["file"], path)]


def test_the_recheck_finds_words_bytes_chunks_names_and_trailers(tmp_path):
    source = film(
        1,
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Wellensittich^Blau=山田太郎",
        PatientBirthDate="19500102",
        ImageComments="Nachbarin von Frau Zeisig",
        ReferencedStudySequence=None,
    )
    source.add_new((0x0009, 0x0010), "LO", "MAKER")
    source.add_new((0x0009, 0x1001), "LO", "PRIVATKENNUNG")
    out, sources = exported(tmp_path, source)
    recheck.check(out, sources, fixed_text())
    table, picture = out / "labels.csv", out / sources[0][0]
    sound = {path: path.read_bytes() for path in (table, picture)}

    def refused(path, data):
        path.write_bytes(data)
        with pytest.raises(IdentifierFound):
            recheck.check(out, sources, fixed_text())
        if path in sound:
            path.write_bytes(sound[path])
        else:
            path.unlink()

    for word in (
        "Blau",
        "x-wellensittich-x",
        "1950-01-02",
        "19500102",
        "zeisig",
        "privatkennung",
        "山田太郎",
        f"{ROOT}.1",
    ):
        refused(table, sound[table] + word.encode() + b"\n")
    refused(out / "Wellensittich.csv", b"")
    refused(picture, sound[picture] + b"a trailer")
    refused(picture, sound[picture][:-12] + sound[picture][-12:] * 2)
    refused(picture, sound[picture].replace(b"IDAT", b"IDAT" + "山田太郎".encode(), 1))
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "harmless")
    with Image.open(picture) as image:
        image.load()
        image.save(tmp_path / "copy", format="PNG", pnginfo=text)
    refused(picture, (tmp_path / "copy").read_bytes())
    refused(picture, picture_of(b"Wellensittich^Blau"))
    picture.write_bytes(picture_of(b"Kanarienvogel^Gelb"))
    recheck.check(out, sources, fixed_text())
    picture.write_bytes(sound[picture])
    recheck.check(out, sources, fixed_text())


def test_words_of_the_export_itself_are_no_find(tmp_path):
    source = film(1, PatientName="Patient^Test", InstitutionName="Verdict Basic", PatientID="9", StudyID="1")
    Node(tmp_path).receive(source).export(unlabelled=True)
    assert (tmp_path / "out").is_dir()


@pytest.mark.slow
def test_an_interrupted_export_leaves_nothing_under_its_name_and_the_next_one_sweeps(tmp_path):
    node = Node(tmp_path).receive(*(film(number) for number in range(1, 4)))
    program = f"""
import sys, time
sys.path[:0] = {[str(one) for one in Path(__file__).parents[1:3]]!r}
from pathlib import Path
from exporting import Node
from dicom_node.learn.export import folder
write = folder.Draft._write
def slowly(self, name, data):
    print(name, flush=True)
    time.sleep(0 if len(self.digests) < 2 else 60)
    return write(self, name, data)
folder.Draft._write = slowly
Node(Path({str(tmp_path)!r})).export(unlabelled=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        for _ in range(3):
            assert child.stdout.readline().startswith("images/")
        with Draft(tmp_path / "out"):
            assert len([path for path in tmp_path.iterdir() if path.name.startswith(".out.")]) == 2, "both are at work"
        child.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    (left,) = (path for path in tmp_path.iterdir() if path.name.startswith(".out."))
    assert list(left.rglob("*.png"))
    node.export(unlabelled=True)
    assert not left.exists()
    assert (tmp_path / "out").is_dir()


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    node = Node(tmp_path).receive(*(film(number) for number in range(1, 9)))
    with receiving.small_disk(tmp_path / "small", 1) as disk:
        (disk / "filler").write_bytes(b"\1" * (1000 << 10))
        with pytest.raises(OutOfResources, match="Disk full"):
            node.export("small/out", unlabelled=True)
        assert [path.name for path in disk.iterdir()] == ["filler"]


def test_a_spool_file_that_is_gone_or_damaged_is_left_out(tmp_path):
    node = Node(tmp_path).receive(film(1), film(2), film(3))
    paths = [node.ledger.received_instances(f"{ROOT}.{number}")[0].path for number in (1, 2)]
    paths[0].unlink()
    paths[1].write_bytes(os.urandom(2000))
    report = node.export(labels="accession_number,target\n00377,1\n")
    assert report.images == 1
    assert len(report.left_out) == 2


def test_a_fault_of_ours_costs_one_image_and_says_nothing_of_it(tmp_path, monkeypatch):
    render = pixels.radiograph

    def fails_once(ds):
        return render({}[ds.PatientID] if ds.PatientID == "CANARY2" else ds)

    monkeypatch.setattr(pixels, "radiograph", fails_once)
    report = Node(tmp_path).receive(film(1), film(2), film(3)).export(unlabelled=True)
    assert report.images == 2
    assert [one.reason for one in report.left_out] == ["reading it failed (KeyError)"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Peaks of Python's own memory, with few and with many images of one size."""
    import tracemalloc

    node = Node(tmp_path).receive(*(film(number) for number in range(1, 3)))
    node.export("warm", unlabelled=True)
    peaks = []
    for count in (3, 20):
        node.receive(*(film(number) for number in range(3, count)))
        tracemalloc.start()
        node.export(f"out{count}", unlabelled=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2 * 200 * 240 * 4


def test_odd_headers_are_exported_or_left_out_with_a_reason_and_never_end_the_export(tmp_path):
    implicit = film(2)
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    odd = [
        film(1, StudyDate="not a date", PatientBirthDate="00000000", PatientSex="?"),
        reread(implicit),
        film(3, SpecificCharacterSet="ISO_IR 6", InstitutionName="Spital Z"),
        film(4, PatientName="A^B^C^D^E^F=G=H", OtherPatientIDs=["1", "2"]),
    ]
    report = Node(tmp_path).receive(*odd).export(unlabelled=True)
    assert report.images + len(report.left_out) == len(odd)
    assert report.images >= 3


def test_the_recheck_reads_every_kind_of_text():
    source = film(1, RequestingPhysician="Stieglitz^Rot", ReferencedStudySequence=[film(2, StudyID="Tief unten")])
    parts = {part for element in recheck._elements(source) for part in element.parts()}
    assert {"stieglitz", "rot", "20240506", "2024-05-06", "canary1", "tief", f"{ROOT}.1"} <= parts


def test_the_recheck_knows_a_name_in_the_bytes_of_its_source():
    name = CHARACTER_SETS["\\ISO 2022 IR 87"]
    source = reread(film(1, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name))
    raw = source.get_item("PatientName").value.strip()
    assert b"\x1b$B" in raw
    assert {raw, "山田^太郎".encode()} <= {needle for one in recheck._elements(source) for needle in one.needles()}
