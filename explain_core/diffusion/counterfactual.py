"""Counterfactuals of a joint diffusion model: noise a little, and denoise towards another answer of its own head.

From the authors' public code (see docs/mediffusion.md for what is known and what is inferred): at each step the clean
latent is predicted, the head judges it, and the predicted noise is shifted along the gradient of that judgement:
noise' = noise + s sqrt(1 - a_t) grad_z_t BCE(head(h(z_0)), target). The scale s is sought for each image: doubled from
a small one until the head is as sure as it is of such images, then halved in between; a pull that is too strong drives
the image out of all that the model knows, and need not reach it. A chain with the same noise and s = 0 stands beside
it: noising alone removes findings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from explain_core import progress
from explain_core.diffusion.model import Guidance, JointDiffusion
from explain_core.diffusion.schedule import clean, inverter, noised, sampler, walk
from explain_core.errors import AttributionError

Tell = Callable[[float], None]
SUREST = 1e-4
"""No head is asked to be nearer than this to 0 or 1: beyond it, rounding would set how strong the pull is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How counterfactuals are sought.

    Attributes:
        start: step of 1,000 from which is denoised; beyond 300 the image is largely forgotten.
        steps: of the whole chain; those below `start` are done.
        limit: the largest scale that is tried.
        doublings: from the smallest scale that is tried to the limit.
        halvings: of the interval in which the least scale lies, after that.
        noise: "random" from `seed`, or "inverted": the noise that the model itself would make the image from.
        seed: of the noise.
        normalised: see `Guidance`.
        aim: what is sought: "typical", that the head is as sure as it is of images of that kind, where the model knows
            that (`JointDiffusion.typical`), .9999 at most; or "threshold", the least change of all. What only just
            crosses one network's threshold is seldom enough for another's.

    Raises:
        ValueError: a start outside the schedule, or no step below it.
    """

    start: int = 300
    steps: int = 50
    limit: float = 3000.0
    doublings: int = 7
    halvings: int = 5
    noise: Literal["random", "inverted"] = "random"
    seed: int = 0
    normalised: bool = False
    aim: Literal["typical", "threshold"] = "typical"

    def __post_init__(self) -> None:
        if not 0 < self.start <= 1000 or not self.grid:  # noqa: PLR2004 - steps of the schedule
            raise ValueError(f"start lies between 1 and 1000 and above a step of the chain, got {self.start}")

    @property
    def grid(self) -> tuple[int, ...]:
        """The steps that are done, falling to 0."""
        return tuple(int(step) for step in sampler(self.steps).timesteps if step < self.start)


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """What became of images, shape (N, ...) each.

    Attributes:
        original: the images through the space and back: what changes are measured against, so that the autoencoder's
            own error is no evidence. In [0, 1], shape (N, 1, S, S).
        changed: the counterfactual images.
        unguided: the same noise without guidance.
        scales: the guidance that was needed; where none sufficed, that of the attempt that came nearest.
        before: probability of the finding in the decoded original, as the head sees it.
        after: of the counterfactual.
        control: of the unguided image.
        reached: whether the head's answer is what was asked for.
    """

    original: Tensor
    changed: Tensor
    unguided: Tensor
    scales: Tensor
    before: Tensor
    after: Tensor
    control: Tensor
    reached: Tensor

    @property
    def difference(self) -> Tensor:
        """|changed - original|, shape (N, 1, S, S)."""
        return (self.changed - self.original).abs()


def counterfactual(
    model: JointDiffusion,
    images: Tensor,
    output: int,
    target: int,
    settings: Settings | None = None,
    *,
    threshold: float = 0.5,
    tell: Tell = progress.tell,
) -> Counterfactual:
    """Enforce (target 1) or remove (target 0) a finding, by as little guidance as reaches the goal.

    Args:
        model: whose head judges, in eval mode.
        images: grey in [0, 1], shape (N, 1, S, S).
        output: which finding.
        target: 1 or 0.
        settings: how.
        threshold: of the decision.
        tell: told the part that is done; `explain_core.progress` where none is named.

    Raises:
        ValueError: no such output or target, or images of another shape.
        AttributionError: an image has that answer already, or the chain left the numbers.
    """
    asked = settings or Settings()
    if not 0 <= output < model.network.config.outputs:
        raise ValueError(f"the head has the outputs 0 to {model.network.config.outputs - 1}, not {output}")
    if target not in (0, 1):
        raise ValueError(f"a target is 0 (remove) or 1 (enforce), not {target}")
    with torch.no_grad():
        z = model.encode(images)
        before = _probability(model, z, output)
    met = (before >= threshold) == bool(target)
    if met.any():
        does = "enforce" if target else "remove"
        raise AttributionError(
            f"{int(met.sum())} of {len(images)} images are decided as asked already: there is nothing to {does}"
        )
    noisy = _noisy(model, z, asked)
    goal = _goal(model, output, target, threshold) if asked.aim == "typical" else threshold
    rounds = asked.doublings + asked.halvings + 2

    def run(rows: Tensor, scales: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, probability, and whether the goal is reached, of the images in `rows` under `scales`."""
        latents = denoise(model, noisy[rows], Guidance(output, target, scales, asked.normalised), asked)
        probability = _probability(model, latents, output)
        tell((number + 1) / rounds)
        return latents, probability, (probability >= goal) == bool(target)

    everyone = torch.arange(len(images), device=z.device)
    low = torch.zeros(len(images), device=z.device)
    unguided, control, reached = run(everyone, low, 0)
    found, after, high = unguided.clone(), control.clone(), low.clone()
    for number in range(asked.doublings + 1):
        rows = everyone[~reached]
        if not len(rows):
            break
        scale = asked.limit / 2 ** (asked.doublings - number)
        latents, probability, crossed = run(rows, torch.full_like(low[rows], scale), number + 1)
        nearer = crossed | ((probability - target).abs() < (after[rows] - target).abs())
        better = rows[nearer]
        found[better], after[better], high[better] = latents[nearer], probability[nearer], scale
        low[rows[~crossed]], reached[rows[crossed]] = scale, True
    rows = everyone[reached & (high > 0)]
    for number in range(asked.halvings if len(rows) else 0):
        middle = (low[rows] + high[rows]) / 2
        latents, probability, crossed = run(rows, middle, number + asked.doublings + 2)
        better = rows[crossed]
        found[better], after[better], high[better] = latents[crossed], probability[crossed], middle[crossed]
        low[rows[~crossed]] = middle[~crossed]
    tell(1.0)
    with torch.no_grad():
        original, changed, without = (model.decode(one).clamp(0, 1) for one in (z, found, unguided))
    return Counterfactual(
        original, changed, without, high, before, after, control, (after >= threshold) == bool(target)
    )


def _goal(model: JointDiffusion, output: int, target: int, threshold: float) -> float:
    """The head's typical probability of what is sought, or the threshold where that asks for more."""
    typical = float(model.typical[output, target])
    return max(min(typical, 1 - SUREST), threshold) if target else min(max(typical, SUREST), threshold)


def denoise(model: JointDiffusion, noisy: Tensor, guidance: Guidance, settings: Settings) -> Tensor:
    """Noisy latents of the first step of the grid to clean ones.

    Raises:
        AttributionError: a latent is not finite.
    """
    z = walk(sampler(settings.steps), lambda z, t: _guided(model, z, t, guidance), noisy, settings.grid)
    if not bool(torch.isfinite(z).all()):
        raise AttributionError("the guided chain left the numbers; lower the limit of the guidance")
    return z


def _guided(model: JointDiffusion, z: Tensor, t: Tensor, guidance: Guidance) -> Tensor:
    """The predicted noise of one step, shifted; the plain one costs no gradient."""
    left = model.left[t]
    if not bool((guidance.scales > 0).any()):
        with torch.no_grad():
            plain: Tensor = model.network(z, t)
        return plain
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        noise = model.network(z, t)
        logits = model.network.classify(clean(z, noise, left))[:, guidance.output]
        loss = functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(guidance.target)))
        (gradient,) = torch.autograd.grad(loss * len(z), z)
    if guidance.normalised:
        gradient = gradient / gradient.pow(2).mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
    pull = guidance.scales * (1 - left).sqrt()
    shifted: Tensor = noise.detach() + pull.view(-1, 1, 1, 1) * gradient
    return shifted


def _noisy(model: JointDiffusion, z: Tensor, settings: Settings) -> Tensor:
    """Latents at the first step of the grid."""
    first = settings.grid[0]
    if settings.noise == "random":
        generator = torch.Generator().manual_seed(settings.seed)
        noise = torch.randn(z.shape, generator=generator).to(z)
        return noised(z, noise, model.left[torch.full((len(z),), first, device=z.device)])
    scheduler = inverter(settings.steps)
    with torch.no_grad():
        return walk(scheduler, model.network, z, [step for step in scheduler.timesteps if step <= first])


@torch.no_grad()
def _probability(model: JointDiffusion, z: Tensor, output: int) -> Tensor:
    return model.network.classify(z)[:, output].sigmoid()
