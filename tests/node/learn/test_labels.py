"""Labels: right tables are read, and of wrong ones everything is said by line."""

import pytest

from dicom_node.learn import labels
from dicom_node.learn.labels import LabelsWrong

RECEIVED = {
    "accession_number": {
        "000123": ["1.1"],
        "000124": ["1.2"],
        "A-7": ["1.3"],
        "TWICE": ["1.4", "1.5"],
        "A-7b": ["1.3"],
    },
    "study_instance_uid": {"1.1": ["1.1"], "1.2": ["1.2"], "1.3": ["1.3"]},
}
HEAD = "accession_number,target\n"


def read(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return labels.read(path, RECEIVED.__getitem__)


def wrong(tmp_path, text, encoding="utf-8"):
    with pytest.raises(LabelsWrong) as refused:
        read(tmp_path, text, encoding)
    return [(problem.line, problem.what) for problem in refused.value.problems]


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        (HEAD + "000123,1\n000124,0\n", {"1.1": 1, "1.2": 0}),
        (HEAD + "000123,Positive\n000124,NORMAL\nA-7,Opacity\n", {"1.1": 1, "1.2": 0, "1.3": 1}),
        ("target,accession_number\r\nnegative,000123\r\n", {"1.1": 0}),
        ("study_instance_uid,target\n1.2,1\n", {"1.2": 1}),
        ("Accession_Number , TARGET\n 000123 , 1 \n\n", {"1.1": 1}),
        ('accession_number,target\n"000123","1"\n', {"1.1": 1}),
        ("\ufeff" + HEAD + "000123,1\n", {"1.1": 1}),
    ],
)
def test_right_tables(tmp_path, text, targets):
    assert read(tmp_path, text) == targets


def test_everything_that_is_wrong_is_said_by_line(tmp_path):
    text = HEAD + "000123,1\nNOBODY,1\n000124,\n000123,1\n,0\nA-7,perhaps\n000123,0\nA-7,1,2\nTWICE,1\n"
    lines = wrong(tmp_path, text)
    assert [line for line, _ in lines] == [3, 4, 5, 6, 7, 8, 9, 10]
    said = dict(lines)
    assert "no study with this accession_number was received" in said[3]
    assert "the target is missing" in said[4]
    assert "the same study as in line 2" in said[5]
    assert "the accession_number is missing" in said[6]
    assert "what stands there is no target; use 0, negative, normal, 1, positive, opacity" in said[7]
    assert "another target than in line 2" in said[8]
    assert "3 cells where the header has 2" in said[9]
    assert "2 studies have this accession_number: 1.4, 1.5" in said[10]
    cells = ("NOBODY", "000123", "A-7", "perhaps", "TWICE")
    assert not any(cell in what for cell in cells for what in said.values()), "a cell may be anybody's number or name"


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator_is_named_and_the_rest_is_read_nevertheless(tmp_path, separator, name):
    text = (HEAD + "000123,1\nNOBODY,2\n").replace(",", separator)
    (first, *others) = wrong(tmp_path, text)
    assert first == (1, f"the columns are separated by {name}, not by commas")
    assert [line for line, _ in others] == [3, 3]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf_16_is_named_and_the_rest_is_read_nevertheless(tmp_path, encoding):
    (first, *others) = wrong(tmp_path, HEAD + "000123,1\nNOBODY,1\n", encoding)
    assert "UTF-16" in first[1]
    assert [line for line, _ in others] == [3]


def test_windows_letters_are_named_by_line(tmp_path):
    lines = wrong(tmp_path, HEAD + "000123,1\nMüller,1\n", "cp1252")
    assert [line for line, _ in lines] == [3, 3]
    assert any("Windows-1252" in what for _, what in lines)


@pytest.mark.parametrize(
    "text",
    ["", "accession_number\n000123\n", "accession_number,study_instance_uid,target\n", "a,b\n1,2\n", "000123,1\n",
     "accession_number,target,patient_name\n000123,1,X\n", "accession_number,label\n000123,1\n"],
)  # fmt: skip
def test_a_wrong_header_says_what_it_must_be(tmp_path, text):
    ((line, what),) = wrong(tmp_path, text)
    assert line == 1
    assert what.endswith("the header must be accession_number,target or study_instance_uid,target")


def test_a_table_without_rows_is_wrong(tmp_path):
    assert wrong(tmp_path, HEAD) == [(1, "the table has a header and no row")]


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ("123,1", "dropped"),
        ("000123.0,1", "decimals"),
        ("1.23E+02,1", "number"),
        ("'000123,1", "quotes"),
        ("\u201c000123\u201d,1", "quotes"),
        ('"=""000123""",1', "quotes"),
        ("000123,1.0", "decimal"),
    ],
)
def test_what_a_spreadsheet_may_have_done_is_named(tmp_path, row, hint):
    ((line, what),) = wrong(tmp_path, f"{HEAD}{row}\n")
    assert line == 2
    assert hint in what


def test_quotes_that_do_not_end_are_named(tmp_path):
    lines = wrong(tmp_path, HEAD + '000123,1\n"000124,0\n')
    assert any("quotes" in what for _, what in lines)


def test_two_numbers_of_one_study_are_one_study(tmp_path):
    ((line, what),) = wrong(tmp_path, HEAD + "A-7,1\nA-7b,0\n")
    assert (line, what) == (3, "the study of line 2, with another target")


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(LabelsWrong) as refused:
        labels.read(tmp_path / "none.csv", RECEIVED.__getitem__)
    assert "cannot be read" in refused.value.problems[0].what
