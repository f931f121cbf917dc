"""The noise that diffusion models are trained with: 1,000 steps, whose betas rise in one of two ways.

"latent" is that of latent diffusion (Rombach 2022: 0.0015 to 0.0195, evenly in their roots), "linear" that of DDPM and
of diffusion autoencoders (0.0001 to 0.02).
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import DDIMInverseScheduler, DDIMScheduler

STEPS = 1000
Betas: TypeAlias = Literal["latent", "linear"]
Predict: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Noisy latents and their steps, shape (N,), to the noise in them."""
_BETAS: dict[Betas, dict[str, Any]] = {
    "latent": {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"},
    "linear": {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"},
}


def _settings(betas: Betas) -> dict[str, Any]:
    return {"num_train_timesteps": STEPS, "clip_sample": False} | _BETAS[betas]


def sampler(count: int, betas: Betas = "latent") -> "DDIMScheduler":
    """Deterministic steps (DDIM, arXiv:2010.02502), `count` of them from pure noise to nothing."""
    from diffusers import DDIMScheduler  # noqa: PLC0415 - slow to import

    scheduler = DDIMScheduler(set_alpha_to_one=True, **_settings(betas))
    scheduler.set_timesteps(count)
    return scheduler


def inverter(count: int, betas: Betas = "latent") -> "DDIMInverseScheduler":
    """The same steps the other way."""
    from diffusers import DDIMInverseScheduler  # noqa: PLC0415 - slow to import

    scheduler = DDIMInverseScheduler(set_alpha_to_one=True, **_settings(betas))
    scheduler.set_timesteps(count)
    return scheduler


def walk(scheduler: Any, predict: Predict, z: Tensor, timesteps: Iterable[Any] | None = None) -> Tensor:
    """Latents along the steps of a sampler or an inverter, or along some of them."""
    for step in scheduler.timesteps if timesteps is None else timesteps:
        t = torch.full((len(z),), int(step), device=z.device)
        z = scheduler.step(predict(z, t), int(step), z).prev_sample
    return z


def kept(device: torch.device | None = None, betas: Betas = "latent") -> Tensor:
    """How much of the signal's variance is left at each step (alpha bar), float32, shape (1000,), falling from 1."""
    from diffusers import DDIMScheduler  # noqa: PLC0415 - slow to import

    left: Tensor = DDIMScheduler(**_settings(betas)).alphas_cumprod
    return left.to(device)


def noised(z: Tensor, noise: Tensor, left: Tensor) -> Tensor:
    """sqrt(a) z + sqrt(1 - a) noise, for `left` = a of each row, shape (N,)."""
    a = left.view(-1, 1, 1, 1)
    return a.sqrt() * z + (1 - a).sqrt() * noise


def clean(z_t: Tensor, noise: Tensor, left: Tensor) -> Tensor:
    """The latents that would have become `z_t` by `noise`: the inverse of `noised`."""
    a = left.view(-1, 1, 1, 1)
    return (z_t - (1 - a).sqrt() * noise) / a.sqrt()
