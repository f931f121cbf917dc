"""The stages that evaluate, judge, report and register."""

import json
import math
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from explain_core.files import read_json, write, write_json
from training import datasets, gate
from training.cohort import TEST, TRAIN, VALIDATION
from training.making import finish
from training.measure.comparison import compare
from training.report import model_card, page
from training.retrain import joint
from training.retrain.collect import open_registry
from training.retrain.job import FILES, Job, RehearsalTable, source_name, source_reader
from training.retrain.parts import load
from training.retrain.stage import Context, sha256

PASSED, FORCED, REFUSED = "passed", "forced", "refused"


def evaluate(context: Context) -> dict[str, Any]:
    """Champion and challenger on the same test patients; figures.json.

    Raises:
        TrainingError: there is no test patient.
    """
    out, asked = context.folder.stage("evaluate"), context.job.evaluation
    collected, split = context.folder.stage("collect"), context.folder.stage("split")
    figures = compare.compare(
        collected / "champion",
        context.folder.stage("bundle") / "bundle",
        load(collected, split, TEST),
        load(collected, split, TRAIN, VALIDATION),
        cases=asked.cases,
        localisation_images=asked.localisation_images,
        draws=asked.draws,
        seed=context.job.job.seed,
        progress=context.progress,
        cache=out / "cache",
        device=context.job.resources.device,
    )
    write_json(out / "figures.json", figures)
    return {"figures": sha256(out / "figures.json")}


def rules(context: Context) -> Path | None:
    """The file of the gate's rules; None for the rules that come with the program."""
    return Path(context.job.gate.rules) if context.job.gate.rules else None


def judge(context: Context) -> dict[str, Any]:
    """The verdict; verdict.json.

    Raises:
        GateError: the rules are wrong.
    """
    figures = read_json(context.folder.stage("evaluate") / "figures.json")
    verdict = gate.judge(gate.Rules.load(rules(context)), figures)
    file = context.folder.stage("gate") / "verdict.json"
    write_json(file, verdict.to_dict())
    failed = [finding.sentence for finding in verdict.failures]
    return {"passed": verdict.passed, "reason": verdict.reason, "failed": failed, "verdict": sha256(file)}


def report(context: Context) -> dict[str, Any]:
    """report.html and the bundle with its final model card, both in the job's own folder."""
    folder, out = context.folder, context.folder.stage("report")
    figures = read_json(folder.stage("evaluate") / "figures.json")
    verdict = gate.Verdict.from_dict(read_json(folder.stage("gate") / "verdict.json"))
    described, past = description(context), history(context)
    write(folder.path / "report.html", page.html(figures, verdict, described, past))
    context.progress(0.6)
    aside = out / "bundle"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(folder.stage("bundle") / "bundle", aside)
    provisional = (aside / "model_card.md").read_text()
    digest = finish(
        aside,
        model_card.card(figures, verdict, described, past, provisional=provisional, training=attributions(context)),
    )
    shutil.rmtree(folder.path / "bundle", ignore_errors=True)
    aside.rename(folder.path / "bundle")
    return {"digest": digest}


def attributions(context: Context) -> str:
    """Where the training data come from, with licences and attribution, and those of the champion it started from."""
    lines = []
    for source in context.job.data.sources:
        reader = source_reader(source)
        stated = datasets.attribution(reader) or "the site's own; it answers for their use"
        lines.append(f"- {source_name(source)}: {stated}")
    job = context.job
    starts = {job.mediffusion.start} if job.job.kind == joint.KIND else {job.classifier.start, job.generators.start}
    if "champion" in starts:
        card = (context.folder.stage("collect") / "champion" / "model_card.md").read_text(encoding="utf-8")
        _, _, rest = card.partition(model_card.TRAINING_HEADING)
        before = rest.partition("\n## ")[0].strip() or "its model card says nothing of its training data"
        lines += [
            "",
            f"Started from the weights of {context.made('collect')['champion'][:12]}, which learnt from:",
            "",
            before,
        ]
    return "\n".join(lines)


def description(context: Context) -> dict[str, Any]:
    """What the report says of the job."""
    state = context.folder.told()
    return {
        "id": context.folder.name,
        "name": context.job.job.name,
        "created_at": state.get("created_at", ""),
        "settings": settings(context.job),
        "lineage": lineage(context),
        "forced": context.forced,
        "sources": [source.partition("=")[0] for source in context.job.data.sources],
    }


def settings(job: Job) -> dict[str, Any]:
    """The job as it may be read anywhere: of sources their name and reader, of files their name, no folder."""
    table = job.model_dump(mode="json", exclude={"resources", "registry"}, exclude_none=True)
    table["data"]["sources"] = [f"{source_name(source)}={source_reader(source)}" for source in job.data.sources]
    for section, key in (("champion", "bundle"), *FILES):
        table[section][key] = Path(table[section][key]).name
    return table


def lineage(context: Context) -> dict[str, str]:
    """Where the bundle comes from."""
    return {
        "data_sha256": context.made("split")["data_sha256"],
        "code_version": code_version(),
        "seeds": json.dumps({"job": context.job.job.seed}),
        "parent_digest": context.made("collect")["champion"],
        "job": context.folder.name,
    } | rehearsal(context)


def rehearsal(context: Context) -> dict[str, str]:
    """What was changed on purpose before training, for the report and the registry; nothing where nothing was."""
    asked = context.job.rehearsal
    if asked == RehearsalTable():
        return {}
    turned = context.made("split")["flipped_labels"]
    return {"rehearsal": f"{asked.share:.0%} of the patients, {turned} labels turned into their opposite on purpose"}


def code_version() -> str:
    """The program's version, and the commit where it runs from a repository."""
    version = metadata.version("dicom-explanation-node")
    git = shutil.which("git")
    root = Path(__file__).resolve().parents[2]
    if git is None or not (root / ".git").exists():
        return version
    found = subprocess.run(  # noqa: S603 - a fixed command
        [git, "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return f"{version}+{found.stdout.strip()}" if found.returncode == 0 else version


def history(context: Context) -> dict[str, list[dict[str, float]]]:
    """What the runs measured while they trained."""
    lines = context.folder.stage("generators") / "history.jsonl"
    rows = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    return {
        "classifier": read_json(context.folder.stage("classifier") / "classifier.json").get("history", []),
        "generators": list({row["step"]: row for row in rows}.values()),
    }


def register(context: Context) -> dict[str, Any]:
    """Make the bundle a version of the registry; a refused one too, which then says so.

    Raises:
        RegistryUnreachable: the registry does not answer; nothing was registered.
        BundleError: the bundle was changed since it was made.
    """
    folder, verdict = context.folder, context.made("gate")
    bundle = folder.path / "bundle"
    figures = read_json(folder.stage("evaluate") / "figures.json")
    gate = PASSED if verdict["passed"] else FORCED if context.forced else REFUSED
    reason = f"by force: {context.forced}" if gate == FORCED else verdict["reason"] if gate == REFUSED else ""
    registry = open_registry(context.job)
    metrics = {name: value for name, value in compare.metrics(figures).items() if math.isfinite(value)}
    version = registry.register(
        bundle,
        gate=gate,
        reason=reason[:4000],
        lineage=lineage(context),
        metrics=metrics,
        reports=[folder.path / "report.html"],
    )
    if gate == FORCED:
        registry.note(version.number, {"gate": FORCED, "reason": reason[:4000], "forced": context.forced[:4000]})
    return {"version": version.number, "digest": version.digest}
