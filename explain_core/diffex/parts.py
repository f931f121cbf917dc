"""What a classifier's evidence is made of: directions of codes, few and each apart from the others.

By place: the gradients of the evidence by the code, over many images, span few directions, which matter to the
classifier (an active subspace, Constantine et al., doi:10.1137/130916138). A gradient knows nothing of a sign that is
there or not, so what the difference of the two decisions' means and a linear classifier have besides is taken into the
span. Within it any rotation explains as much; taken is the one whose changes of the image are sparsest (varimax,
Kaiser, doi:10.1007/BF02289233): one direction widens the heart, another raises the fluid, none does a little of both.

By independence: where everything happens in one place, as in pictures of one cell, what varies independently over the
images (independent component analysis, Hyvarinen and Oja, doi:10.1016/S0893-6080(00)00026-5). It asks no classifier.
"""

from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from explain_core.diffex.semantic import SemanticAutoencoder
from explain_core.diffex.subject import Subject
from explain_core.diffusion.schedule import noised

Floats = NDArray[np.float64]
Apart: TypeAlias = Literal["place", "independence"]
IMAGES, BATCH = 192, 32
_ROUNDS, _TOLERANCE = 2000, 1e-3
_NEW = 0.05
"""Part of a direction's length that is not in the span yet, below which it adds nothing."""


def by_place(
    model: SemanticAutoencoder,
    subject: Subject,
    latents: Tensor,
    codes: Tensor,
    count: int,
    *,
    further: Tensor,
    at: int = 700,
    length: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Directions of unit length, each in a place of its own, shape (`count` and those of `further` that are new, code).

    Args:
        model: frozen.
        subject: the classifier, with gradients.
        latents: of images, shape (N, C, s, s).
        codes: theirs, standardised, shape (N, code).
        count: how many the gradients span.
        further: directions that the span shall hold besides, shape (F, code).
        at: the step of noise from which images are foreseen in one step.
        length: of the changes by which places are compared, in standardised codes.
        seed: of the noise and the choice of images.

    Raises:
        ValueError: the classifier gives no gradients.
    """
    if not subject.differentiable:
        raise ValueError("parts of the evidence need gradients of the classifier")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(codes), generator=generator)[:IMAGES].to(codes.device)
    noise = torch.randn(latents[rows].shape, generator=generator).to(latents)
    t = torch.full((len(rows),), at, device=codes.device)
    noisy, chosen = noised(latents[rows], noise, model.left[t]), codes[rows]
    gradients = torch.cat(
        [
            _gradients(model, subject, z, t[: len(z)], code)
            for z, code in zip(noisy.split(BATCH), chosen.split(BATCH), strict=True)
        ]
    )
    _, _, spanned = torch.linalg.svd(functional.normalize(gradients, dim=1), full_matrices=False)
    basis = _with(spanned[:count], further.to(spanned))
    changes = torch.zeros(len(basis), model.side**2, device=codes.device)
    with torch.no_grad():
        for z, code in zip(noisy.split(BATCH), chosen.split(BATCH), strict=True):
            for number, direction in enumerate(basis):
                ahead, back = (model.glimpse(z, t[: len(z)], code + s * length * direction) for s in (1, -1))
                changes[number] += (ahead - back).sum(dim=(0, 1)).flatten()
    rotation = varimax(changes.T.double().cpu().numpy())
    return functional.normalize(torch.from_numpy(rotation.T).to(basis) @ basis, dim=1)


def by_independence(codes: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """Directions of unit length, along each of which one of `count` independent factors varies, shape (count, code).

    Args:
        codes: of many images, standardised, shape (N, code).
        count: how many; about as many as vary in the images.
        seed: of the search's start.
    """
    from sklearn import decomposition  # noqa: PLC0415 - slow to import

    module: Any = decomposition
    search = module.FastICA(
        count, whiten="unit-variance", fun="cube", max_iter=_ROUNDS, tol=_TOLERANCE, random_state=seed
    )
    found = search.fit(codes.double().cpu().numpy()).mixing_.T
    return functional.normalize(torch.from_numpy(found).to(codes), dim=1)


def _with(basis: Tensor, further: Tensor) -> Tensor:
    """An orthonormal basis, shape (K, code), with what of further directions is not in its span."""
    for direction in functional.normalize(further, dim=1):
        new = direction - basis.T @ (basis @ direction)
        if float(new.norm()) > _NEW:
            basis = torch.cat([basis, functional.normalize(new, dim=0)[None]])
    return basis


def _gradients(model: SemanticAutoencoder, subject: Subject, z: Tensor, t: Tensor, code: Tensor) -> Tensor:
    """Of the evidence of every answer in question, by the code; one row an image and answer."""
    found = []
    for question in subject.questions():
        if not question.holds:
            continue
        with torch.enable_grad():
            asked = code.detach().clone().requires_grad_()
            evidence = subject.evidence(subject.logits(model.glimpse(z, t, asked)), question)
            (gradient,) = torch.autograd.grad(evidence.sum(), asked)
        found.append(gradient)
    return torch.cat(found)


def varimax(loadings: Floats, rounds: int = 500, tolerance: float = 1e-8) -> Floats:
    """The rotation that makes columns sparsest: the variance of their squares is largest.

    Args:
        loadings: shape (P, K).
        rounds: at most.
        tolerance: it ends when the criterion grows by less than this part of it.

    Returns:
        an orthogonal matrix, shape (K, K): `loadings @ rotation` has the sparse columns.
    """
    rotation, before = np.eye(loadings.shape[1]), 0.0
    for _ in range(rounds):
        rotated = loadings @ rotation
        target = rotated**3 - rotated * (rotated**2).mean(axis=0)
        left, sizes, right = np.linalg.svd(loadings.T @ target)
        rotation = left @ right
        if sizes.sum() < before * (1 + tolerance):
            break
        before = float(sizes.sum())
    return rotation
