"""What the command says that times explanations beside a retraining; no assertion on a duration."""

import pytest
from retraining import job_text, make_champion

from training.errors import TrainingError
from training.retrain.beside import ALONE, BESIDE, PEER, beside, table


@pytest.mark.slow
def test_ratios_are_to_the_explanations_alone_and_nothing_is_left(tmp_path):
    champion = make_champion(tmp_path / "champion")
    job = tmp_path / "job.toml"
    job.write_text(job_text(tmp_path, champion))
    figures = beside(job, champion, device="cpu", repeats=2)
    assert list(figures) == [ALONE, BESIDE, PEER]
    for case, row in figures.items():
        assert row["lowest"] <= row["median"] <= row["highest"]
        assert row["ratio"] == pytest.approx(row["median"] / figures[ALONE]["median"])
        assert case in table(figures)
    assert {path.name for path in tmp_path.iterdir()} == {"champion", "job.toml", "rules.toml"}, "no book, no registry"


def test_a_job_that_cannot_train_is_named(tmp_path):
    champion = make_champion(tmp_path / "champion")
    job = tmp_path / "job.toml"
    job.write_text(job_text(tmp_path, champion, limits={"min_patients": 1000}))
    with pytest.raises(TrainingError, match=r"no training began: .*patients, 1000 are needed"):
        beside(job, champion, device="cpu", repeats=1)
