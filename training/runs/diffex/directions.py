"""Learn directions in the codes of a diffusion autoencoder (DiffEx, arXiv:2502.09663, its second stage).

A batch of images is noised to one step; each direction moves their codes, one step of the model foresees the images,
and the changes of what is compared (`DiffexSettings.features`) are contrasted over directions and images.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from explain_core.classifier import LastFeatures
from explain_core.diffex.directions import Bank, contrast, decorrelation
from explain_core.diffex.semantic import SemanticAutoencoder
from explain_core.diffex.subject import Subject
from explain_core.diffusion.schedule import noised
from training import checkpoints
from training.errors import TrainingError
from training.progress import Progress, silent
from training.runs.diffex.settings import HOW, DiffexSettings

_SMALL = 16
_LEAST = 1e-3
"""Added to what directions do to logits, so that nothing has a logarithm."""
_PROJECTED = (256, 128)
_ROWS = 96
"""Images whose way through the networks is held for its gradients; where there are more, it is gone twice, in parts."""


def learn(
    settings: DiffexSettings,
    model: SemanticAutoencoder,
    subject: Subject,
    latents: Tensor,
    codes: Tensor,
    bank: Bank,
    gap: float,
    out: Path,
    progress: Progress = silent,
) -> list[dict[str, float]]:
    """Train the learnt directions of a bank, in place; the same call again goes on, or takes what was learnt.

    Args:
        settings: of the run.
        model: frozen; everything runs where it is.
        subject: the classifier.
        latents: of training images, shape (N, C, s, s).
        codes: theirs, standardised, shape (N, code).
        bank: the directions.
        gap: distance of the two decisions' mean codes.
        out: folder of the run.
        progress: told now and then.

    Returns:
        the loss at every report.

    Raises:
        TrainingError: a classifier without gradients whose features are asked for, a loss that is not finite, or
            another run's folder.
    """
    if (settings.features == "classifier" or settings.effect) and not subject.differentiable:
        raise TrainingError(
            "the classifier gives no gradients (ONNX, TorchScript), so directions cannot be learnt from what it says: "
            'set effect to 0, and features to "image" or "encoder"'
        )
    torch.manual_seed(settings.seed)
    device = model.null.device
    latents, codes, bank = latents.to(device), codes.to(device), bank.to(device)
    see, projector = _seen(settings, model, subject)
    projector = projector.to(device)
    trained = [value for value in (*bank.parameters(), *projector.parameters()) if value.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=settings.direction_rate)
    generator = torch.Generator().manual_seed(settings.seed)
    named = {name: value for name, value in asdict(settings).items() if name not in HOW}
    mark = checkpoints.fingerprint(codes, model.null, (named, gap))
    state = checkpoints.load(out / "directions.pt", mark, device)
    step, history = 0, list[dict[str, float]]()
    if state is not None:
        bank.load_state_dict(state["bank"])
        projector.load_state_dict(state["projector"])
        optimiser.load_state_dict(state["optimiser"])
        generator.set_state(state["generator"].cpu())
        step, history = state["step"], state["history"]
    bank.train()
    while step < settings.direction_steps:
        where = torch.randint(len(codes), (settings.direction_batch,), generator=generator)
        t = torch.full((len(where),), settings.glimpse, device=device)
        noise = torch.randn(latents[where].shape, generator=generator).to(device)
        noisy = noised(latents[where], noise, model.left[t])
        directions = bank.of_learnt(codes[where])
        sign = (torch.randint(2, (len(where), 1, 1), generator=generator) * 2 - 1).to(device)
        moved = codes[where][:, None] + settings.reach * gap * sign * directions
        changes, moves = _changes(model, subject, see, noisy, t, codes[where], moved)
        loss = contrast(changes, settings.sharpness) + settings.decorrelation * decorrelation(directions)
        if settings.effect:
            loss = loss - settings.effect * (moves.mean(dim=0) + _LEAST).log().mean()
        if not bool(torch.isfinite(loss)):
            raise TrainingError(f"step {step + 1} of the directions: the loss is {float(loss)}")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        if step % settings.report_every == 0 or step == settings.direction_steps:
            history.append({"step": step, "contrast": float(loss.detach())})
            progress(step / settings.direction_steps, **history[-1])
            saved = {
                "bank": bank.state_dict(), "projector": projector.state_dict(), "optimiser": optimiser.state_dict(),
                "generator": generator.get_state(), "step": step, "history": history,
            }  # fmt: skip
            checkpoints.save(out / "directions.pt", saved, mark)
    bank.eval()
    return history


See = Callable[[Tensor, Tensor], Tensor]
"""Images in about [0, 1] and their codes, to what is compared, shape (N, P)."""


def _seen(settings: DiffexSettings, model: SemanticAutoencoder, subject: Subject) -> tuple[See, nn.Module]:
    """What is compared of changed images, and what is trained for it."""
    nothing = nn.Identity()
    if settings.features == "projector":
        first, last = _PROJECTED
        projector = nn.Sequential(
            nn.Linear(settings.code, 2 * first), nn.ReLU(), nn.Linear(2 * first, first), nn.ReLU(),
            nn.Linear(first, last),
        )  # fmt: skip
        return lambda _images, codes: projector(codes), projector
    if settings.features == "image":
        small = (_SMALL, _SMALL)
        return lambda images, _codes: functional.adaptive_avg_pool2d(images, small).flatten(1), nothing
    if settings.features == "encoder":
        return (
            lambda images, _codes: model.flatten(model.encoder(model.latents(images.clamp(0, 1))).flatten(1)),
            nothing,
        )
    features = LastFeatures(subject.classifier)
    return lambda images, _codes: features(subject.prepared(images)), nothing


def _changes(
    model: SemanticAutoencoder, subject: Subject, see: See, noisy: Tensor, t: Tensor, codes: Tensor, moved: Tensor
) -> tuple[Tensor, Tensor]:
    """What moved codes, shape (N, K, code), change.

    Returns:
        of what is compared, shape (N, K, P); and how far the logits in question move, shape (N, K).
    """
    count = moved.shape[1]
    asked = slice(None) if subject.exclusive else list(subject.asked)

    def found(noisy: Tensor, t: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        images = model.glimpse(noisy, t, codes)
        return see(images, codes), subject.logits(images)[:, asked]

    rows = (noisy.repeat_interleave(count, 0), t.repeat_interleave(count, 0), moved.flatten(0, 1))
    if len(rows[0]) > _ROWS:
        split = zip(*(one.split(_ROWS) for one in rows), strict=True)
        parts = [checkpoint(found, *part, use_reentrant=False) for part in split]
        after, logits = (torch.cat(both) for both in zip(*parts, strict=True))
    else:
        after, logits = found(*rows)
    before, now = found(noisy, t, codes)
    moves = (logits.unflatten(0, (len(codes), count)) - now[:, None]).norm(dim=2)
    return after.unflatten(0, (len(codes), count)) - before[:, None], moves
