"""How far a comparison is, in units of work."""

from training.progress import Progress


class Meter:
    """Adds up work that is done and reports it.

    Args:
        progress: told the part that is done.
        total: units of work in all.
    """

    def __init__(self, progress: Progress, total: float) -> None:
        self._progress = progress
        self._total = max(total, 1e-9)
        self._done = 0.0
        self.doing = ""

    def add(self, units: float, **figures: float | str) -> None:
        """Report `units` more.

        Raises:
            Cancelled: the run is to stop here; what was kept stays.
        """
        self._done += units
        self._progress(min(1.0, self._done / self._total), doing=self.doing, **figures)
