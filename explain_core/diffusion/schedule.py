"""The noise that joint diffusion is trained with: 1,000 steps, betas 0.0015 to 0.0195 in their roots (Rombach 2022)."""

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

STEPS = 1000
_BETAS = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear", "clip_sample": False}


def sampler(count: int) -> DDIMScheduler:
    """Deterministic steps (DDIM, arXiv:2010.02502), `count` of them from pure noise to nothing."""
    scheduler = DDIMScheduler(num_train_timesteps=STEPS, set_alpha_to_one=True, **_BETAS)
    scheduler.set_timesteps(count)
    return scheduler


def inverter(count: int) -> DDIMInverseScheduler:
    """The same steps the other way."""
    scheduler = DDIMInverseScheduler(num_train_timesteps=STEPS, set_alpha_to_one=True, **_BETAS)
    scheduler.set_timesteps(count)
    return scheduler


def kept(device: torch.device | None = None) -> Tensor:
    """How much of the signal's variance is left at each step (alpha bar), float32, shape (1000,), falling from 1."""
    left: Tensor = DDIMScheduler(num_train_timesteps=STEPS, **_BETAS).alphas_cumprod
    return left.to(device)


def noised(z: Tensor, noise: Tensor, left: Tensor) -> Tensor:
    """sqrt(a) z + sqrt(1 - a) noise, for `left` = a of each row, shape (N,)."""
    a = left.view(-1, 1, 1, 1)
    return a.sqrt() * z + (1 - a).sqrt() * noise


def clean(z_t: Tensor, noise: Tensor, left: Tensor) -> Tensor:
    """The latents that would have become `z_t` by `noise`: the inverse of `noised`."""
    a = left.view(-1, 1, 1, 1)
    return (z_t - (1 - a).sqrt() * noise) / a.sqrt()
