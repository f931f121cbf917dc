"""Training of a diffusion model: steps of AdamW, of which a moving average of the weights remains.

A run goes on from its checkpoint to the weights that an undisturbed one ends with.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from training import checkpoints
from training.errors import TrainingError
from training.progress import Progress
from training.runs import processes

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MOST_LOSS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How long a training is, and how often it stops to look.

    Attributes:
        steps: of the training.
        average: decay of the average of the weights, corrected at the start.
        report_every, checkpoint_every: steps.
        decays: whether the learning rates fall to 0 over the second half.
    """

    steps: int
    average: float
    report_every: int
    checkpoint_every: int
    decays: bool = False

    def rate(self, step: int) -> float:
        """Part of the learning rates that a step is done with."""
        return min(1.0, 2 * (1 - step / self.steps)) if self.decays else 1.0


class Averaged:
    """The state of one training.

    Args:
        network: what is trained, and whose average remains.
        losses: batches of named tensors -> mean losses by name, as one call, so that several processes share gradients.
        groups: the optimiser's groups of parameters.
        course: how long.
        fabric: where it runs.
        generator: of everything random, alike in every process.
        path: of the checkpoint.
        mark: of the settings and data; another run's checkpoint is refused.

    Raises:
        TrainingError: the checkpoint is another run's.
    """

    def __init__(
        self,
        network: nn.Module,
        losses: nn.Module,
        groups: Sequence[Mapping[str, Any]],
        course: Course,
        *,
        fabric: "Fabric",
        generator: torch.Generator,
        path: Path,
        mark: str,
    ) -> None:
        self.network, self.course, self.fabric = network, course, fabric
        self.average = deepcopy(network).to(fabric.device)
        optimiser = torch.optim.AdamW([dict(group) for group in groups], weight_decay=0.0)
        self.losses, self.optimiser = fabric.setup(losses, optimiser)
        self.rates = [group["lr"] for group in optimiser.param_groups]
        self.generator, self.path, self.mark = generator, path, mark
        self.step, self.history = 0, list[dict[str, float]]()
        state = checkpoints.load(path, mark, fabric.device)
        if state is not None:
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.generator.set_state(state["generator"].cpu())
            torch.set_rng_state(state["random"].cpu())
            if fabric.device.type == "cuda":
                torch.cuda.set_rng_state(state["random_cuda"].cpu(), fabric.device)
            self.step, self.history = state["step"], state["history"]

    def _save(self) -> None:
        if self.fabric.is_global_zero:
            state = {
                "network": self.network.state_dict(), "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(), "generator": self.generator.get_state(),
                "random": torch.get_rng_state(), "step": self.step, "history": self.history,
            }  # fmt: skip
            if self.fabric.device.type == "cuda":
                state["random_cuda"] = torch.cuda.get_rng_state(self.fabric.device)
            checkpoints.save(self.path, state, self.mark)

    def go_on(
        self,
        drawn: Callable[[int], Mapping[str, Tensor]],
        weights: Callable[[int], Mapping[str, float]],
        progress: Progress,
    ) -> None:
        """Train from the step that was reached to the last.

        Args:
            drawn: this process's rows of the batch of a step, on the device; nothing where a step has nothing to learn.
            weights: of the losses at a step.
            progress: told now and then.

        Raises:
            TrainingError: a loss that is not finite, or beyond all bounds, with its step and term.
            Cancelled: by `progress`; the last checkpoint stays.
        """
        course = self.course
        self.losses.train()
        while self.step < course.steps:
            batch = drawn(self.step)
            found = self.losses(batch) if batch else {}
            for name, loss in found.items():
                if not bool(torch.isfinite(loss)) or float(loss.detach()) > MOST_LOSS:
                    raise TrainingError(f"step {self.step + 1}: the loss of {name} is {float(loss.detach())}")
            for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
                group["lr"] = rate * course.rate(self.step)
            if found:
                self.optimiser.zero_grad()
                factors = weights(self.step)
                self.fabric.backward(sum(factors[name] * loss for name, loss in found.items()))
                self.fabric.clip_gradients(self.losses, self.optimiser, max_norm=1.0)
                self.optimiser.step()
            self.step += 1
            self._remember()
            if self.step % course.report_every == 0 or self.step == course.steps:
                row = {"step": self.step} | {name: float(loss.detach()) for name, loss in found.items()}
                self.history.append(row)
                processes.tell(self.fabric, progress, self.step / course.steps, **row)
            if self.step % course.checkpoint_every == 0 or self.step == course.steps:
                self._save()

    @torch.no_grad()
    def _remember(self) -> None:
        """Move the average towards the weights: faster at the start, or it would be of the first ones for long."""
        decay = min(self.course.average, (1 + self.step) / (10 + self.step))
        theirs: list[Tensor] = [*self.network.parameters()]
        ours: list[Tensor] = [*self.average.parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - decay)

    def finish(self) -> None:
        """Put the average into the network."""
        self.network.load_state_dict(self.average.state_dict())
