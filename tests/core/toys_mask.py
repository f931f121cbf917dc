"""A linear classifier of 16 pixels that sums the brightness of squares, and images for it."""

import numpy as np
import torch
from torch import nn

SIDE = 16
SQUARES = (slice(3, 8), slice(8, 13)), (slice(9, 14), slice(2, 7))


class Squares(nn.Module):
    """Logit c is gain * (mean brightness of square c - 0.5), through a ReLU that images in [0, 1] do not feel."""

    differentiable = True

    def __init__(self, outputs=2, gain=8.0):
        super().__init__()
        weight = torch.zeros(outputs, SIDE, SIDE)
        for output in range(outputs):
            weight[output][SQUARES[output]] = gain / 25
        self.output = nn.Linear(SIDE * SIDE, outputs)
        self.output.weight.data = weight.reshape(outputs, -1)
        nn.init.constant_(self.output.bias, -gain / 2)
        self.activation = nn.ReLU()
        self.eval().requires_grad_(requires_grad=False)

    @property
    def perceptual_layers(self):
        return (self.activation,)

    def forward(self, images):
        return self.output(self.activation(images).flatten(1))


class Frozen(Squares):
    differentiable = False


def images(count=3, bright=(0, 1, 0), seed=0):
    """Dim noise with one bright square each, `bright` says which, shape (count, 1, 16, 16)."""
    generator = torch.Generator().manual_seed(seed)
    result = 0.2 + 0.1 * torch.rand(count, 1, SIDE, SIDE, generator=generator)
    for index in range(count):
        result[index, 0][SQUARES[bright[index]]] += 0.6
    return result


def inside(values, square):
    """Whether the largest value of a map, shape (16, 16), is in the square."""
    row, column = np.unravel_index(int(values.argmax()), (SIDE, SIDE))
    rows, columns = SQUARES[square]
    return rows.start <= row < rows.stop and columns.start <= column < columns.stop


def untouched(classifier):
    """Whether no hook, no gradient and no wish for one is left on the classifier."""
    hooks = any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in classifier.modules())
    return not hooks and all(p.grad is None and not p.requires_grad for p in classifier.parameters())


def naive_blur(size, sigma):
    """A Gaussian blur of size x size pixels as a matrix, by its definition: a 2-D kernel, border values repeated."""
    if sigma <= 0:
        return np.eye(size * size)
    radius = int(np.ceil(3 * sigma))
    matrix = np.zeros((size * size, size * size))
    total = sum(
        np.exp(-(i * i + j * j) / (2 * sigma**2))
        for i in range(-radius, radius + 1)
        for j in range(-radius, radius + 1)
    )
    for row in range(size):
        for column in range(size):
            for i in range(-radius, radius + 1):
                for j in range(-radius, radius + 1):
                    source = min(max(row + i, 0), size - 1) * size + min(max(column + j, 0), size - 1)
                    weight = np.exp(-(i * i + j * j) / (2 * sigma**2)) / total
                    matrix[row * size + column, source] += weight
    return matrix


def naive_enlarge(small, large):
    """Bilinear enlargement, pixel centres half a pixel from the border, as a matrix."""
    matrix = np.zeros((large * large, small * small))

    def neighbours(index):
        place = max((index + 0.5) * small / large - 0.5, 0.0)
        low = int(place)
        return ((low, 1 - (place - low)), (min(low + 1, small - 1), place - low))

    for row in range(large):
        for column in range(large):
            for i, vertical in neighbours(row):
                for j, horizontal in neighbours(column):
                    matrix[row * large + column, i * small + j] += vertical * horizontal
    return matrix
