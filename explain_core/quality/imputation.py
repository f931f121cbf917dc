"""Noisy linear imputation: what ROAD puts in place of pixels (Rong et al. 2022, arXiv:2202.00449, section 4.1).

Every missing pixel is the weighted mean of its neighbours, missing ones included: 1/6 for the four beside it, 1/12 for
the four at its corners, the weights of those inside the image brought to a sum of 1.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

_STEPS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column]
_KNOWN, _OUTSIDE = -1, -2


def impute(image: NDArray[np.floating], missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    """One image with its missing pixels filled in, without noise.

    Args:
        image: grey, shape (H, W).
        missing: which pixels to fill in, shape (H, W).

    Raises:
        ValueError: every pixel is missing.
    """
    if missing.all():
        raise ValueError("an image without any pixel cannot be filled in")
    filled = image.astype(np.float64)
    count = int(missing.sum())
    if not count:
        return filled
    unknown = np.full(image.shape, _KNOWN)
    unknown[missing] = np.arange(count)
    framed, grey = np.pad(unknown, 1, constant_values=_OUTSIDE), np.pad(filled, 1)
    at = np.argwhere(missing) + 1
    right, total = np.zeros(count), np.zeros(count)
    entries: list[tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]] = []
    for step in _STEPS:
        weight = 1 / 6 if 0 in step else 1 / 12
        place = tuple((at + step).T)
        neighbour = framed[place]
        total += weight * (neighbour != _OUTSIDE)
        right += weight * np.where(neighbour == _KNOWN, grey[place], 0)
        rows = np.flatnonzero(neighbour >= 0)
        entries.append((np.full(len(rows), -weight), rows, neighbour[rows]))
    entries.append((total, np.arange(count), np.arange(count)))
    values, rows, columns = (np.concatenate(part) for part in zip(*entries, strict=True))
    system = sparse.csc_matrix((values, (rows, columns)), shape=(count, count))
    solver = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    filled[missing] = solver.solve(right)
    return filled
