"""The life of models, with the commands that an administrator types: retrain, promote, retrain badly, go back."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from retraining import job_text
from typer.testing import CliRunner

from dicom_node.cli import app

DONE, REFUSED = 0, 3


def films(folder: Path) -> Path:
    """Grey noise, of which every second has a bright disc somewhere: learnt in seconds."""
    folder.mkdir()
    rows, random = ["file,patient_id,target,split"], np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    for i in range(160):
        pixels = random.normal(90, 12, (32, 32))
        if i % 2:
            pixels += 110 * (np.hypot(x - random.uniform(8, 24), y - random.uniform(8, 24)) < 6)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,p{i},{i % 2},{'train' if i < 96 else 'validation' if i < 120 else 'test'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.slow
def test_trained_promoted_refused_and_gone_back(tmp_path, parts):
    shutil.copytree(parts, tmp_path, dirs_exist_ok=True)
    settings = tmp_path / "node.toml"
    settings.write_text(
        f'[node]\ndatabase = "sqlite:///{tmp_path}/ledger.sqlite"\nspool = "{tmp_path}/spool"\n'
        f'[audit]\nfolder = "{tmp_path}/audit"\n'
        f'[model]\nbundle = "{tmp_path}/champion"\nstore = "{tmp_path}/store"\n'
        f'[registry]\nuri = "sqlite:///{tmp_path}/mlflow.sqlite"\nartifacts = "{tmp_path}/artifacts"\n'
    )
    site = films(tmp_path / "films")

    def model(*arguments: str, status: int = 0) -> str:
        found = CliRunner().invoke(app, ["model", *arguments, "--config", str(settings)])
        assert found.exit_code == status, found.output
        return found.stdout + found.stderr

    def retrain(name: str, champion: str, flipped: float) -> tuple[int, str]:
        tables = {
            "data": {"sources": [f"site=folder:{site}"], "classes": ["normal", "opacity"]},
            "classifier": {"epochs": 6, "checkpoint_every": 100, "start": "random", "frozen_statistics": False},
            "rehearsal": {"flipped": flipped},
            "bundle": {"version": name},
        }
        (tmp_path / f"{name}.toml").write_text(job_text(tmp_path, champion, auc=0.8, **tables))
        with (tmp_path / "rules.toml").open("a") as rules:
            rules.write('[[rule]]\nname = "Calibrated"\nkind = "at most"\nfigure = "ece"\nlimit = 0.15\n')
        argv = [sys.executable, "-m", "training", "retrain", str(tmp_path / f"{name}.toml")]
        found = subprocess.run([*argv, "--folder", str(tmp_path / name)], capture_output=True, text=True, check=False)
        return found.returncode, found.stdout + found.stderr

    def champion() -> dict[str, object]:
        return json.loads(model("list", "--json"))["champion"]

    configured = champion()
    status, said = retrain("honest", str(tmp_path / "champion"), 0.0)
    assert status == DONE, said
    model("promote", "1")
    assert (champion()["number"], champion()["version"], champion()["forced"]) == (1, "honest", False)

    status, said = retrain("flipped", "registry", 0.5)
    assert status == REFUSED, said
    verdict = json.loads((tmp_path / "flipped" / "state.json").read_text())["verdict"]
    assert "failed by" in verdict["reason"]
    assert verdict["reason"] in said
    shown = json.loads(model("show", "2", "--json"))
    assert (shown["gate"], shown["tags"]["parent_digest"]) == ("refused", champion()["digest"])
    assert "turned into their opposite" in shown["tags"]["rehearsal"]
    assert verdict["reason"].rstrip(".") in model("promote", "2", status=1)
    assert champion()["number"] == 1

    model("rollback", "--reason", "the readers prefer the old one")
    assert champion()["digest"] == configured["digest"]
    model("verify")
    status, said = retrain("flipped", "registry", 0.5)
    assert (status, "has no champion" in said) == (1, True), "what it was compared with does not run any more"
