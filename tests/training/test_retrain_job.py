"""job.toml, what is refused before anything is trained, and what a job leaves behind."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from retraining import films, finished, job_text, plenty

from explain_core.jobs import JobFolder
from training.retrain.job import Job, JobError, load
from training.retrain.judging import settings
from training.retrain.run import prepare

DONE, FAILED, REFUSED = 0, 1, 3
NIH = '[data]\nsources = ["nih:x"]\n'


def asked(folder: Path, parts: Path, **changes) -> Path:
    if not (folder / "mlflow.sqlite").exists():
        shutil.copy(parts / "mlflow.sqlite", folder)
    job = folder / "asked.toml"
    job.write_text(job_text(folder, parts / "champion", **changes))
    return job


def state(path: Path) -> dict:
    return json.loads((path / "state.json").read_text())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{NIH}\n[classifier]\nepocs = 3\n", r"job\.toml:5: classifier\.epocs: unknown key; did you mean epochs\?"),
        (f"{NIH}[classifier]\nepochs = 0\n", r"job\.toml:4: classifier\.epochs: should be greater than 0"),
        ('[data]\nsources = ["nih:x"]\n[trainer]\n', r"job\.toml:3: trainer: unknown key; known: .*classifier"),
        ('[job]\nname = "a"\n', r"job\.toml: data: add this key"),
        ("[data]\nsources = []\n", r"job\.toml:2: data\.sources: "),
        ('[data]\nsources = ["nih:x", "nih:y"]\n', r"job\.toml:2: data\.sources: two sources are called nih"),
        ('[data]\nsources = ["no reader"]\n', r"job\.toml:2: data\.sources\.0: write a source as reader:folder"),
        ('[job]\nname = "a/b"\n[data]\nsources = ["nih:x"]\n', r"job\.toml:2: job\.name: "),
        ('[data]\nsources = ["nih:x"]\n[split]\ntest = 0.5\nvalidation = 0.4\n', r"job\.toml:4: split\.test: "),
        (f"{NIH}[evaluation]\ndraws = 1\n", r"job\.toml:4: evaluation\.draws: .*greater than or equal to 200"),
        ('[data]\nsources = ["nih:x"\n', r"job\.toml:\d+: not valid TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_job_toml_is_said_in_one_line(tmp_path, text, message):
    file = tmp_path / "job.toml"
    file.write_text(text)
    with pytest.raises(JobError, match=message) as raised:
        load(file)
    assert "\n" not in str(raised.value)


def test_a_resolved_job_reads_back_as_itself(tmp_path):
    file = tmp_path / "job.toml"
    file.write_text(
        '[data]\nsources = ["site-b=folder:films?classes=a,b", "phantom?size=32"]\n[split]\nbook = "b.csv"\n'
    )
    job = load(file).resolved(tmp_path)
    assert job.data.sources == (f"site-b=folder:{tmp_path}/films?classes=a,b", "phantom=phantom?size=32")
    assert job.split.book == str(tmp_path / "b.csv")
    assert job.registry.uri == f"sqlite:///{tmp_path}/var/registry/mlflow.sqlite"
    file.write_text(job.text())
    assert load(file) == job


def test_defaults_of_the_node_never_replace_what_the_job_says(tmp_path):
    file = tmp_path / "job.toml"
    file.write_text('[data]\nsources = ["nih:x"]\n[registry]\nname = "mine"\n')
    job = load(file, defaults={"registry.name": "theirs", "champion.bundle": "/b"}, sources=["studies:e"])
    assert (job.registry.name, job.champion.bundle, job.data.sources) == ("mine", "/b", ("nih:x", "studies:e"))


def test_the_site_limits_what_a_job_claims():
    resources = Job.model_validate({"data": {"sources": ["nih:x"]}, "resources": {"nice": 5, "threads": 4}}).resources
    limited = resources.within(nice=10, threads=2, gpu_memory_fraction=0.3)
    assert (limited.nice, limited.threads, limited.gpu_memory_fraction) == (10, 2, 0.3)
    assert resources.within(None, None, None) == resources


def test_every_key_is_in_the_documentation(root):
    text = (root / "docs" / "retraining.md").read_text()
    for table, of in Job.model_fields.items():
        section = text.split(f"### [{table}]", 1)[1].split("\n##", 1)[0]
        for key, field in of.annotation.model_fields.items():
            default = "required" if field.is_required() else field.default
            row = next(line for line in section.splitlines() if line.startswith(f"| `{key}`"))
            shown = json.dumps(default) if isinstance(default, (str, bool)) else str(default)
            assert default in ("required", None, "") or shown in row, (table, key)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "limits", "message"),
    [
        (plenty(30), {"min_patients": 100}, "30 patients, 100 are needed: 70 more"),
        (plenty(60), {"min_positives": 10}, "positives in test, 10 are needed"),
        ([(f, p, "1", s) for f, p, _, s in plenty()], {}, "one class only: no image is labelled as one of the neg"),
        ([*plenty(), ("0001.png", "p1", "1", "")], {}, "duplicate row, the first one kept\n    labels.csv, line 62"),
        ([*plenty(), ("z.png", "pz", "maybe", "")], {}, "label not known, treated as missing\n    labels.csv, line 62"),
        ([*plenty(), ("z.png", "p1", "1", "test"), ("y.png", "p1", "1", "train")], {}, "patient in two splits"),
    ],
)  # fmt: skip
def test_what_cannot_come_to_a_good_end_is_refused_before_training(tmp_path, parts, rows, limits, message):
    source = films(tmp_path / "films", rows)
    path = tmp_path / "job"
    job = asked(tmp_path, parts, data={"sources": [f"folder:{source}"]}, limits={"min_patients": 30} | limits)
    assert finished(path, job=job) == FAILED
    found = state(path)
    assert (found["state"], found["stage"]) == ("failed", "validate")
    assert message in found["error"], found["error"]
    assert not (path / "stages" / "classifier").exists()
    assert not (tmp_path / "splits.csv").exists()


@pytest.mark.slow
def test_a_table_of_labels_in_another_encoding_is_refused(tmp_path, parts):
    source = films(tmp_path / "films", plenty())
    text = (source / "labels.csv").read_text()
    (source / "labels.csv").write_text(text, encoding="utf-16")
    path = tmp_path / "job"
    assert finished(path, job=asked(tmp_path, parts, data={"sources": [f"folder:{source}"]})) == FAILED
    assert "not a CSV table in UTF-8" in state(path)["error"]


@pytest.mark.slow
def test_missing_images_beyond_the_limit_are_refused(tmp_path, parts):
    source = films(tmp_path / "films", plenty())
    for name in ("0003.png", "0004.png"):
        (source / name).unlink()
    path = tmp_path / "job"
    assert finished(path, job=asked(tmp_path, parts, data={"sources": [f"folder:{source}"]})) == FAILED
    assert "3.3% of the images are missing or unreadable, 2.0% allowed" in state(path)["error"]


@pytest.mark.slow
def test_a_test_patient_of_an_earlier_job_is_never_trained_on(tmp_path, parts):
    rows = [(f, p, t, "train" if int(f[:4]) % 3 else "test") for f, p, t, _ in plenty(66)]
    rows = [(f, p, t, "validation" if int(f[:4]) % 3 == 1 else s) for f, p, t, s in rows]
    source = films(tmp_path / "films", rows)
    book = tmp_path / "splits.csv"
    book.write_text("patient,split,job,since\nfolder/p1,test,earlier,t\nfolder/p0,train,earlier,t\n")
    job = asked(tmp_path, parts, data={"sources": [f"folder:{source}"]}, gate={"rules": str(tmp_path / "nothing.toml")})
    assert finished(tmp_path / "job", job=job) == FAILED  # at the gate's rules, which are not there
    (tmp_path / "nothing.toml").write_text((tmp_path / "rules.toml").read_text())
    assert finished(tmp_path / "job", die_in="classifier", when="begun") == -9
    with (tmp_path / "job" / "stages" / "split" / "splits.csv").open() as file:
        splits = {row["patient"]: row["split"] for row in csv.DictReader(file)}
    assert (splits["folder/p1"], splits["folder/p0"], splits["folder/p3"]) == ("test", "train", "test")
    book.rename(tmp_path / "lost.csv")
    assert finished(tmp_path / "next", job=job) == FAILED
    assert "splits.csv: the book of splits is missing, and job has used one" in state(tmp_path / "next")["error"]
    assert not book.exists()


@pytest.mark.slow
def test_the_same_file_of_two_patients_is_not_on_both_sides(tmp_path, parts):
    rows = [(f, p, t, ("train", "validation", "test")[int(f[:4]) % 3]) for f, p, t, _ in plenty(66)]
    source = films(tmp_path / "films", rows)
    shutil.copy(source / "0002.png", source / "0000.png")
    job = asked(tmp_path, parts, data={"sources": [f"folder:{source}"]})
    assert finished(tmp_path / "job", job=job, die_in="classifier", when="begun") == -9
    with (tmp_path / "job" / "stages" / "split" / "splits.csv").open() as file:
        splits = {row["patient"]: row["split"] for row in csv.DictReader(file)}
    assert (splits["folder/p0"], splits["folder/p2"], splits["folder/p3"]) == ("", "test", "train")


@pytest.mark.slow
def test_a_refused_job_is_registered_as_refused_and_passes_by_force_with_a_reason(tmp_path, parts):
    from explain_core.bundles.files import verify
    from explain_core.bundles.registry import Registry

    job, path = asked(tmp_path, parts, auc=1.01), tmp_path / "job"
    assert finished(path, job=job) == REFUSED, (path / "job.log").read_text()
    assert state(path)["state"] == "refused"
    assert "AUC" in state(path)["error"]
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.sqlite", "chest", tmp_path / "artifacts")
    assert [one.gate for one in registry.versions()] == ["refused"]

    assert finished(path, force="the head of radiology said so") == DONE
    found = state(path)
    assert (found["state"], found["verdict"]["forced"]) == ("done", "the head of radiology said so")
    version = registry.version(found["version"])
    assert version.gate == "forced"
    assert "the head of radiology said so" in version.tags["reason"]
    assert version.digest == verify(path / "bundle")
    assert "the head of radiology said so" in (path / "report.html").read_text()
    assert version.tags["parent_digest"] == verify(parts / "champion")
    assert (
        version.tags["data_sha256"] == json.loads((path / "stages/split/done.json").read_text())["made"]["data_sha256"]
    )

    assert finished(path) == DONE, "the reason is kept for this verdict"
    assert registry.version(version.number).gate == "forced"
    with (tmp_path / "rules.toml").open("a") as rules:
        rules.write('[[rule]]\nname = "Many"\nkind = "at least"\nfigure = "patients"\nlimit = 5000\n')
    assert finished(path) == REFUSED, "it was not given for a rule that came later"
    assert "5000" in state(path)["verdict"]["reason"]
    other = asked(tmp_path, parts, auc=1.01, evaluation={"draws": 201}, bundle={"version": "2"})
    assert finished(path, job=other) == REFUSED, "for other figures it is none"
    assert "forced" not in state(path)
    assert registry.version(state(path)["version"]).gate == "refused"


@pytest.mark.parametrize("reason", ["", "   "])
def test_force_without_a_reason_is_refused(tmp_path, reason):
    argv = [sys.executable, "-m", "training", "retrain", "--folder", str(tmp_path / "job"), "--force", reason]
    found = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (1, "error: --force needs a reason\n")
    assert not (tmp_path / "job").exists()


@pytest.mark.slow
def test_another_grid_than_the_champions_is_refused_before_training(tmp_path, parts):
    assert finished(tmp_path / "job", job=asked(tmp_path, parts, data={"size": 48})) == FAILED
    found = state(tmp_path / "job")
    assert found["stage"] == "validate"
    assert found["error"].startswith("[data] size: 48, but the champion sees 32 x 32 pixels")


@pytest.mark.slow
def test_a_job_that_became_invalid_has_failed(tmp_path, parts):
    folder = JobFolder(tmp_path / "job")
    folder.make()
    prepare(folder, load(asked(tmp_path, parts)))
    assert (folder.told()["state"], folder.path.stat().st_mode & 0o777) == ("queued", 0o700)
    assert folder.job_file.stat().st_mode & 0o777 == 0o600
    folder.job_file.write_text('[data]\nsources = ["nih:x"]\n[classifier]\nepocs = 3\n')
    assert finished(folder.path) == FAILED
    found = folder.told()
    assert found["state"] == "failed"
    assert "job.toml:4: classifier.epocs: unknown key" in found["error"]


@pytest.mark.slow
def test_a_job_whose_process_dies_again_and_again_has_failed(tmp_path, parts):
    path, job = tmp_path / "job", asked(tmp_path, parts)
    for start in range(6):  # the first gets as far as the stage
        assert finished(path, job=job, die_in="collect", when="begun") == -9, start
    assert finished(path, job=job, die_in="collect", when="begun") == FAILED
    assert state(path)["state"] == "failed"
    assert "died 5 times in a row" in state(path)["error"]
    assert finished(path, job=job, die_in="collect", when="begun") == -9, "whoever starts it again means it"


def test_a_report_has_names_and_no_folders(tmp_path):
    file = tmp_path / "job.toml"
    file.write_text(
        '[data]\nsources = ["site-b=folder:films?classes=a,b", "nih:x"]\n[champion]\nbundle = "store/one"\n'
        '[split]\nbook = "b.csv"\n[gate]\nrules = "site/r.toml"\n'
    )
    shown = settings(load(file).resolved(tmp_path))
    assert shown["data"]["sources"] == ["site-b=folder", "nih=nih"]
    assert [shown[one][key] for one, key in (("champion", "bundle"), ("split", "book"), ("gate", "rules"))] == [
        "one", "b.csv", "r.toml",
    ]  # fmt: skip
    assert str(tmp_path) not in json.dumps(shown)


@pytest.mark.slow
def test_two_processes_train_the_classifier_of_one_job(tmp_path, parts):
    weights = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        job = asked(folder, parts, classifier={"processes": processes, "precision": "32-true"})
        assert finished(folder / "job", job=job, die_in="calibrate", when="begun") == -9, JobFolder(
            folder / "job"
        ).told()
        made = json.loads((folder / "job" / "stages" / "classifier" / "classifier.json").read_text())
        weights.append([row["loss"] for row in made["history"]])
    assert weights[0] == pytest.approx(weights[1], rel=1e-3)


def test_the_command_checks_a_job_without_loading_pytorch(tmp_path, root):
    file = tmp_path / "job.toml"
    file.write_text('[data]\nsources = ["nih:x"]\n[gate]\nrule = "r.toml"\n')
    program = (
        "import sys; sys.argv = ['training', 'retrain', sys.argv[1], '--check', '--default', 'registry.name=\"n\"']\n"
        "from training.__main__ import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules\n"
    )
    argv = [sys.executable, "-c", program, str(file)]
    wrong = subprocess.run(argv, capture_output=True, text=True, cwd=root, check=False)
    assert (wrong.returncode, wrong.stderr) == (1, f"error: {file}:4: gate.rule: unknown key; did you mean rules?\n")
    file.write_text('[data]\nsources = ["nih:x"]\n')
    right = subprocess.run(argv, capture_output=True, text=True, cwd=root, check=True)
    assert 'name = "n"' in right.stdout
    assert "epochs = 10" in right.stdout
    file.write_text('[data]\nsources = ["nih:x"]\n[classifier]\narchitecture = "nosuch"\n')
    unknown = subprocess.run(argv, capture_output=True, text=True, cwd=root, check=False)
    assert unknown.returncode == 1
    assert unknown.stderr.startswith(f"error: {file}:4: classifier.architecture: there is no 'nosuch'; there is: ")
    assert "resnet50" in unknown.stderr
