"""Directions in the space of codes: learnt to be distinct, and the fixed ones that they are compared with.

Learnt is what LatentCLR learns (Yueksel et al., arXiv:2104.00820; DiffEx, arXiv:2502.09663): the changes that one
direction makes are alike for all images, and unlike those of any other. What is compared is what becomes of the image;
the authors' public code compares projections of the codes themselves, which sees no image and finds distinct directions
that mean nothing (docs/diffex.md).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Form: TypeAlias = Literal["global", "mlp"]
PART, LEARNT = "part", "learnt"
MEAN, LOGISTIC, AXIS, RANDOM = "mean difference", "logistic regression", "axis", "random"


class Bank(nn.Module):
    """Directions of unit length in the space of standardised codes.

    Args:
        learnt: how many are learnt.
        code: length of a code.
        form: "global": the same for every image; "mlp": a small network of the code each, as published.
        fixed: others, shape (F, code); their lengths do not matter.
        names: of the fixed ones.
        seed: of the learnt ones' start.

    Raises:
        ValueError: fixed ones and names of different number.
    """

    def __init__(
        self,
        learnt: int,
        code: int,
        *,
        form: Form = "global",
        fixed: Tensor | None = None,
        names: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(names) != (0 if fixed is None else len(fixed)):
            raise ValueError(f"{len(names)} names and {0 if fixed is None else len(fixed)} fixed directions")
        self.learnt, self.form = learnt, form
        self.names = (*(f"{LEARNT} {number + 1}" for number in range(learnt)), *names)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if form == "global":
                self.directions = nn.Parameter(torch.randn(learnt, code))
            else:
                self.networks = nn.ModuleList(_network(code) for _ in range(learnt))
        self.fixed: Tensor
        self.register_buffer("fixed", torch.zeros(0, code) if fixed is None else functional.normalize(fixed, dim=1))

    def __len__(self) -> int:
        return self.learnt + len(self.fixed)

    def of_learnt(self, code: Tensor) -> Tensor:
        """The learnt ones at codes of shape (N, code): unit length, shape (N, learnt, code)."""
        if self.form == "global":
            return functional.normalize(self.directions, dim=1).expand(len(code), -1, -1)
        return functional.normalize(torch.stack([network(code) for network in self.networks], dim=1), dim=2)

    def forward(self, code: Tensor) -> Tensor:
        """All of them at codes of shape (N, code): unit length, the learnt ones first, shape (N, len(self), code)."""
        return torch.cat([self.of_learnt(code), self.fixed.expand(len(code), -1, -1)], dim=1)


def _network(code: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(code, code), nn.BatchNorm1d(code), nn.ReLU(),
        nn.Linear(code, code), nn.BatchNorm1d(code), nn.ReLU(),
        nn.Linear(code, code, bias=False),
    )  # fmt: skip


def contrast(changes: Tensor, sharpness: float = 0.5) -> Tensor:
    """The loss of LatentCLR as its public code has it; the sign of a change does not matter.

    With s = |cosine| of two changes, L = -mean_a log(mean e^(sharpness s) over other images of the same direction /
    mean e^(sharpness s) over all images of other directions).

    Args:
        changes: what each direction made of each image, shape (N, K, P), N and K at least 2.
        sharpness: multiplies the similarity.

    Raises:
        ValueError: one image or one direction.
    """
    images, count = changes.shape[:2]
    if min(images, count) < 2:  # noqa: PLR2004 - nothing to compare
        raise ValueError(f"two images and two directions at least are compared, got {images} and {count}")
    flat = functional.normalize(changes, dim=2).transpose(0, 1).reshape(images * count, -1)
    similarity = (sharpness * (flat @ flat.T).abs()).exp()
    owner = torch.arange(count, device=flat.device).repeat_interleave(images)
    same = owner[:, None] == owner[None]
    others = same & ~torch.eye(len(flat), dtype=torch.bool, device=flat.device)
    alike = (similarity * others).sum(dim=1) / (images - 1)
    unlike = (similarity * ~same).sum(dim=1) / (images * (count - 1))
    return -(alike / unlike).log().mean()


def decorrelation(directions: Tensor) -> Tensor:
    """How far directions of one image are from orthogonal: mean squared cosine of two, shape (N, K, code) -> ()."""
    cosines = directions @ directions.transpose(1, 2)
    count = directions.shape[1]
    off = cosines - torch.diag_embed(torch.diagonal(cosines, dim1=1, dim2=2))
    return off.pow(2).sum(dim=(1, 2)).mean() / (count * (count - 1))


def supervised(answers: Sequence[str], answer: str) -> tuple[str, str]:
    """What the two directions that know the decision for `answer`, one of all `answers`, are called."""
    suffix = f" of {answer}" if len(answers) > 1 else ""
    return MEAN + suffix, LOGISTIC + suffix


def references(
    codes: NDArray[np.floating], decided: Mapping[str, NDArray[np.bool_]], *, axes: int = 4, randoms: int = 4,
    seed: int = 0,
) -> tuple[Tensor, tuple[str, ...], float]:  # fmt: skip
    """The fixed directions that learnt ones are compared with: two for each answer, and those that know none.

    Args:
        codes: standardised, shape (N, code).
        decided: for each answer whether the classifier decides for it, shape (N,); both occur.
        axes: principal axes, the largest first.
        randoms: random directions.
        seed: of the random ones.

    Returns:
        the directions, shape (F, code); their names; and the distance of the means of those decided for an answer and
        of the others, averaged over the answers, by which lengths of changes are measured.

    Raises:
        ValueError: all images are decided alike, with the answer.
    """
    from sklearn import linear_model  # noqa: PLC0415 - slow to import

    module: Any = linear_model
    rows, names = [], list[str]()
    for answer, one in decided.items():
        if one.all() or not one.any():
            raise ValueError(f"all images are decided alike about '{answer}': there is no difference to explain")
        weight = module.LogisticRegression(C=0.1, max_iter=2000).fit(codes, one).coef_[0]
        rows += [codes[one].mean(axis=0) - codes[~one].mean(axis=0), weight]
        names += supervised(tuple(decided), answer)
    gap = float(np.mean(np.linalg.norm(rows[::2], axis=1)))
    _, _, principal = np.linalg.svd(codes - codes.mean(axis=0), full_matrices=False)
    drawn = np.random.default_rng(seed).normal(size=(randoms, codes.shape[1]))
    names += [*(f"{AXIS} {n + 1}" for n in range(axes)), *(f"{RANDOM} {n + 1}" for n in range(randoms))]
    found = np.concatenate([np.stack(rows), principal[:axes], drawn])
    return torch.from_numpy(found.astype(np.float32)), tuple(names), gap
