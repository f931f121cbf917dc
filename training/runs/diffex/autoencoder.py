"""Train a diffusion autoencoder that knows a classifier (DiffEx, arXiv:2502.09663, its first stage).

    L = E |v - v_theta(z_t, t, s)|^2 + w KL(C(x) || C(x_0)),    s = W [C(x); E(z_0)] or, now and then, a learnt null

x_0 is the image that one step foresees from z_t, so that the divergence has a gradient, and at high steps one through
the code alone; the authors' public code takes a chain of twenty steps that has none. The weight w grows from 0. Why v
and not the noise, `explain_core/diffex/semantic.py` says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from explain_core.diffex.semantic import SemanticAutoencoder
from explain_core.diffex.subject import Subject
from explain_core.diffusion.schedule import STEPS, noised
from training import checkpoints
from training.errors import TrainingError
from training.progress import Progress, silent
from training.runs import processes
from training.runs.averaged import Averaged, Course
from training.runs.diffex.settings import DiffexSettings, build, of_training
from training.runs.spaces import space_of
from training.runs.views import changed

ENCODE_BATCH = 32


@dataclass(frozen=True, slots=True)
class Material:
    """What the training sees.

    Attributes:
        latents: float16, shape (views, N, C, s, s), scaled to unit variance.
        logits: the classifier's, of each view, float32, shape (views, N, outputs).
        scale: by which latents were multiplied.
    """

    latents: Tensor
    logits: Tensor
    scale: float


@torch.no_grad()
def material(settings: DiffexSettings, subject: Subject, images: Tensor, out: Path) -> Material:
    """Latents and logits of every view of the images, made once and kept in `out`.

    Args:
        settings: of the run.
        subject: the classifier.
        images: uint8, shape (N, 1, S, S).
        out: folder of the run.

    Raises:
        TrainingError: images of another size, a classifier that decides all alike or says what is no number, or the
            folder of another run.
    """
    if images.shape[-1] != settings.size:
        raise TrainingError(f"images of {images.shape[-1]} pixels a side, and the model is for {settings.size}")
    own = (settings.space, settings.weights, settings.views, settings.seed, subject.outputs, subject.size)
    first = subject.logits(images[:16].float() / 255)
    mark = checkpoints.fingerprint(images, first, own)
    kept = checkpoints.load(out / "latents.pt", mark, torch.device("cpu"))
    if kept is None:
        space, generator = space_of(settings.space, settings.weights), torch.Generator().manual_seed(settings.seed)
        views = [changed(images, generator) for _ in range(settings.views)] or [images]
        latents, logits = [], []
        for view in views:
            parts = [part.float() / 255 for part in view.split(ENCODE_BATCH)]
            latents.append(torch.cat([space.encode(part) for part in parts]).half())
            logits.append(torch.cat([subject.logits(part).float() for part in parts]))
        kept = {"latents": torch.stack(latents), "logits": torch.stack(logits)}
        kept["scale"] = 1 / float(kept["latents"].float().std())
        if not bool(torch.isfinite(kept["logits"]).all()):
            raise TrainingError("the classifier says NaN or infinity of some images; is the range of its input right?")
        checkpoints.save(out / "latents.pt", kept, mark)
    logits, scale = kept["logits"], float(kept["scale"])
    for question in subject.questions():
        if len(subject.answers(logits[0], question).unique()) < 2 and not subject.exclusive:  # noqa: PLR2004 - yes, no
            one = "every" if bool(subject.answers(logits[0], question)[0]) else "no"
            raise TrainingError(
                f"the classifier decides for '{subject.named(question)}' of {one} image: there is nothing to explain; "
                "is the range of its input right?"
            )
    if subject.exclusive and len(logits[0].argmax(dim=1).unique()) < 2:  # noqa: PLR2004 - as above
        raise TrainingError(
            f"the classifier decides every image as '{subject.outputs[int(logits[0, 0].argmax())]}': there is nothing "
            "to explain; is the range of its input right?"
        )
    return Material((kept["latents"].float() * scale).half(), logits, scale)


class _Losses(nn.Module):
    """The terms of the loss of one batch, as one call, so that several processes share its gradients."""

    def __init__(self, model: SemanticAutoencoder, subject: Subject) -> None:
        super().__init__()
        self.model = model
        self._subject = (subject,)  # in a tuple: the classifier is none of the trained modules

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean losses by name; a term without rows is not there."""
        model, (subject,) = self.model, self._subject
        own = model.raw(batch["z"], subject.probabilities(batch["logits"]))
        code = torch.where(batch["dropped"][:, None], model.null, own)
        said = model.predicted(batch["noisy"], batch["t"], code)
        found = {"denoising": functional.mse_loss(said, model.target(batch["z"], batch["noise"], batch["t"]))}
        rows = batch["pulled"].nonzero()[:, 0]
        if len(rows):
            seen = model.clean_of(batch["noisy"][rows], batch["t"][rows], said[rows])
            told = subject.logits(model.images(seen))
            found["divergence"] = subject.divergence(batch["logits"][rows], told).mean()
        return found


def train(
    settings: DiffexSettings, subject: Subject, images: Tensor, out: Path, progress: Progress = silent
) -> SemanticAutoencoder:
    """Train to the end, or go on from the checkpoint in `out`.

    Args:
        settings: of the run.
        subject: the classifier; one without gradients needs a pull of 0.
        images: uint8, shape (N, 1, S, S).
        out: folder of the run.
        progress: told now and then.

    Returns:
        the averaged model, in eval mode, on the CPU; its codes of the images have mean 0 and variance 1.

    Raises:
        TrainingError: see `material`; a pull without gradients; another run's folder; a loss that is not finite, with
            its step and term.
        Cancelled: by `progress`; the last checkpoint stays.
    """
    if settings.pull and not subject.differentiable:
        raise TrainingError(
            "the classifier gives no gradients (ONNX, TorchScript), so it cannot pull the autoencoder: set pull to 0"
        )
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    data = material(settings, subject, images, out)
    model = build(settings, subject, data.scale)
    fabric = processes.start(settings.device, settings.precision)
    batch = processes.Batch(settings.batch, fabric.global_rank, fabric.world_size)
    generator = batch.generator.manual_seed(settings.seed)
    trained = [value for value in model.parameters() if value.requires_grad]
    training = Averaged(
        model,
        _Losses(model, subject),
        [{"params": trained, "lr": settings.learning_rate}],
        Course(
            steps=settings.steps,
            average=settings.average,
            decays=True,
            report_every=settings.report_every,
            checkpoint_every=settings.checkpoint_every,
        ),
        fabric=fabric,
        generator=generator,
        path=out / "checkpoint.pt",
        mark=checkpoints.fingerprint(data.latents[:1], data.logits, of_training(settings)),
    )
    left = model.left.cpu()
    started = settings.pull_from * settings.steps
    grown = max(1.0, started)

    def weights(step: int) -> Mapping[str, float]:
        return {"denoising": 1.0, "divergence": settings.pull * min(1.0, max(0.0, (step - started) / grown))}

    def drawn(step: int) -> dict[str, Tensor]:
        views, count = data.latents.shape[:2]
        where = torch.randint(count, (settings.batch,), generator=generator)
        which = torch.randint(views, (settings.batch,), generator=generator)
        z, t = data.latents[which, where].float(), torch.randint(STEPS, (settings.batch,), generator=generator)
        noise = torch.randn(z.shape, generator=generator)
        dropped = torch.rand(settings.batch, generator=generator) < settings.dropped
        pulled = (t < settings.pull_below) & ~dropped & (weights(step)["divergence"] > 0)
        rows = {
            "z": z, "noisy": noised(z, noise, left[t]), "t": t, "noise": noise, "dropped": dropped, "pulled": pulled,
            "logits": data.logits[which, where],
        }  # fmt: skip
        return {name: values[batch.part].to(fabric.device) for name, values in rows.items()}

    training.go_on(drawn, weights, progress)
    training.finish()
    model = model.cpu().eval()
    _standardise(model, data, subject)
    return model


@torch.no_grad()
def _standardise(model: SemanticAutoencoder, data: Material, subject: Subject) -> None:
    """Have the codes of the first view zero mean and unit variance."""
    pairs = zip(data.latents[0].split(ENCODE_BATCH), data.logits[0].split(ENCODE_BATCH), strict=True)
    raw = torch.cat([model.raw(z.float(), subject.probabilities(logits)) for z, logits in pairs])
    model.mean.copy_(raw.mean(dim=0))
    model.deviation.copy_(raw.std(dim=0).clamp(min=1e-6))


def frozen(model: SemanticAutoencoder) -> SemanticAutoencoder:
    """The model without gradients of its own weights."""
    return model.eval().requires_grad_(requires_grad=False)
