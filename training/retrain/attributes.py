"""What the stages of a job of kind "diffex" do: explain the champion by ranked attributes, and attach the report to it.

No version is made. The champion's classifier is frozen; half of the training patients teach the autoencoder, the other
half another classifier that judges; directions are ranked on validation patients and judged on test patients. The
report goes to the version in the registry, where there is one; in the job's folder it lies in any case.
"""

from dataclasses import replace
from typing import Any

import torch

from explain_core.files import write, write_json
from explain_core.geometry import resized
from training.cohort import TEST, TRAIN, VALIDATION, Cohort
from training.diffex import explain as explaining
from training.diffex.figures import figures, markdown
from training.diffex.judge import judge
from training.diffex.page import page
from training.diffex.request import Request, of_bundle, prepared
from training.errors import TrainingError
from training.retrain.collect import open_registry
from training.retrain.material import champion_folder, cohort
from training.retrain.stage import Context, sha256
from training.runs.diffex.settings import PRESETS, DiffexSettings
from training.runs.spaces import needs_weights

KIND = "diffex"
REPORT, TABLES = "attributes.html", "attributes.md"


def settings(context: Context) -> DiffexSettings:
    """The settings of the run.

    Raises:
        TrainingError: a preset whose autoencoder's weights are not named.
    """
    job = context.job.diffex
    named = job.model_dump(exclude={"preset", "weights", "gate"}, exclude_none=True)
    asked = replace(
        PRESETS[job.preset],
        weights=job.weights,
        seed=context.job.job.seed,
        device=context.job.resources.device,
        **named,
    )
    if needs_weights(asked.space) and not job.weights:
        raise TrainingError(
            f"[diffex] weights: the preset {job.preset} works in the latents of an autoencoder; name its weights"
        )
    return asked


def explain(context: Context) -> dict[str, Any]:
    """Train, rank, judge, and write the report.

    Raises:
        TrainingError: the code is hardly used, too few images, or the folder is another run's.
        Cancelled: the job is to stop; it goes on from its checkpoints.
    """
    out, asked = context.folder.stage("attributes"), settings(context)
    images = _on_grid(cohort(context, TRAIN, VALIDATION, TEST), asked.size)
    sources = ", ".join(source.partition("=")[0] for source in context.job.data.sources)
    request = Request(data=sources, out=out, settings=asked, gate=context.job.diffex.gate)
    given = prepared(request, images, of_bundle(champion_folder(context), asked))
    found = explaining.explain(request, given, explaining.within(context.progress, 0.0, 0.9))
    judged = judge(request, given, found, explaining.within(context.progress, 0.9, 1.0))
    told = figures([judged])
    write_json(out / "figures.json", told)
    write(out / TABLES, markdown(told))
    write(out / REPORT, page(request, given, found, judged, told))
    write(context.folder.path / "report.html", (out / REPORT).read_bytes())
    return {"report": sha256(out / REPORT), "attributes": sha256(out / explaining.FILE), "use": judged["use"]}


def _on_grid(images: Cohort, size: int) -> Cohort:
    """The images on the autoencoder's grid; masks of findings are not used and left out."""
    if images.size == size:
        return images
    parts = [resized(part, size).round().clamp(0, 255).to(torch.uint8) for part in images.images.split(64)]
    return replace(images, images=torch.cat(parts), truths=(None,) * len(images))


def attach(context: Context) -> dict[str, Any]:
    """Keep the report, its tables and the attributes with the version that was explained.

    Raises:
        RegistryUnreachable: the registry does not answer; the job waits.
    """
    folder = context.folder.stage("attributes")
    digest = context.made("collect")["champion"]
    version = open_registry(context.job).attach(digest, [folder / name for name in (REPORT, TABLES, explaining.FILE)])
    if version is None:
        context.folder.log(f"no version of the registry has the digest {digest}; the report lies in the job's folder")
    return {"version": version, "digest": digest}
