"""Test patients stay test patients, whoever says otherwise, in whatever order."""

import multiprocessing

import pytest

from training.errors import TrainingError
from training.retrain import splits_book
from training.retrain.splits_book import Patient


def people(count: int, prefix: str = "p") -> dict[str, Patient]:
    return {f"{prefix}{n}": Patient(positive=n % 4 == 0) for n in range(count)}


def assign(patients, book=None):
    return splits_book.assign(patients, book or {}, test=0.2, validation=0.1)


def shuffled(patients):
    return dict(sorted(patients.items(), key=lambda item: item[0][::-1]))


def test_shares_hold_among_patients_with_and_without_the_finding():
    patients = people(400)
    splits = assign(patients)
    for positive, count in ((True, 100), (False, 300)):
        of = [splits[name] for name, patient in patients.items() if patient.positive == positive]
        assert (of.count("test"), of.count("validation")) == (count // 5, count // 10)


def test_the_order_of_patients_means_nothing():
    assert assign(shuffled(people(100))) == assign(people(100))


def test_the_book_wins_over_the_reader_and_over_the_draw():
    patients = {name: Patient(positive=False, ready_made="train") for name in people(50)}
    book = {"p3": "test", "p4": "validation"}
    splits = assign(patients, book)
    assert (splits["p3"], splits["p4"], splits["p5"]) == ("test", "validation", "train")


def test_who_is_added_later_moves_nobody_and_the_shares_are_kept():
    first = assign(people(100))
    everybody = people(100) | people(100, "q")
    later = assign(everybody, first)
    assert {name: later[name] for name in first} == first
    assert list(later.values()).count("test") == 40


def test_a_ready_made_split_is_taken_from_the_source():
    assert assign({"a": Patient(positive=True, ready_made="test")}) == {"a": "test"}


def test_entries_are_only_ever_added(tmp_path):
    book = tmp_path / "deep" / "splits.csv"
    splits_book.commit(book, {"a": "test", "b,\n": "train"}, "one")
    before = book.read_bytes()
    kept = splits_book.commit(book, {"a": "train", "c": "validation"}, "two")
    assert kept == {"a": "test", "c": "validation"}
    assert book.read_bytes().startswith(before)
    assert splits_book.read(book) == {"a": "test", "b,\n": "train", "c": "validation"}


def _enter(book, job):
    splits_book.commit(book, {f"{job}-{n}": "test" for n in range(20)} | {"shared": job}, job)


def test_jobs_that_write_at_once_lose_nothing(tmp_path):
    book = tmp_path / "splits.csv"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_enter, args=(book, job)) for job in ("train", "test", "validation")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    entries = splits_book.read(book)
    assert len(entries) == 61
    assert entries["shared"] in splits_book.SPLITS


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name,split\n", 1),
        ("patient,split,job,since\na,test,j,t\nb,tset,j,t\n", 3),
        ("patient,split,job,since\na,test,j,t\na,train,j,t\n", 3),
        ("patient,split,job,since\na,test\n", 2),
    ],
)
def test_a_damaged_book_stops_everything(tmp_path, text, line):
    book = tmp_path / "splits.csv"
    book.write_text(text)
    with pytest.raises(TrainingError, match=rf"splits\.csv:{line}: "):
        splits_book.commit(book, {"c": "train"}, "job")
    assert book.read_text() == text
