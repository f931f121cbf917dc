"""How a training run says how far it is, and is told to stop."""

from typing import Protocol

from training.errors import TrainingError


class Cancelled(TrainingError):
    """The run was asked to stop; what it has saved stays, and a later start goes on from there."""


class Progress(Protocol):
    """Told at every epoch, step or image that is done."""

    def __call__(self, done: float, **figures: float | str) -> None:
        """Take note.

        Args:
            done: part of the stage that is done, 0 to 1.
            figures: whatever there is to show, e.g. epoch=3, loss=0.21.

        Raises:
            Cancelled: the run is to stop here.
        """


def silent(done: float, **figures: float | str) -> None:
    """Nobody listens."""
