"""Joint diffusion: one network learns to denoise all images and to classify the labelled ones (arXiv:2411.09434).

    L = E |eps - eps_theta(z_t, t)|^2 + w BCE(head(h(z_0)), y) + w_u mean m BCE(head(h(strong(z_0))), [p(weak) >= 1/2])

The first term sees every image, labelled or not; the second the labelled ones, at step 0 and every n-th step; the
third, where it is asked for, teaches what the head says of a weakly changed image to a strongly changed one, where the
head is sure (FixMatch, arXiv:2001.07685, for one label and for many). Latents of changed images are made once.

A run goes on from its checkpoint to the weights that an undisturbed one ends with.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from explain_core.diffusion.files import save_model
from explain_core.diffusion.joint_unet import JointUNet
from explain_core.diffusion.model import JointDiffusion
from explain_core.diffusion.schedule import STEPS, noised
from explain_core.files import write_json
from training import checkpoints
from training.errors import TrainingError
from training.progress import Progress, silent
from training.runs import processes
from training.runs.averaged import Averaged, Course
from training.runs.mediffusion import memory
from training.runs.mediffusion.material import Material, material
from training.runs.mediffusion.settings import MediffusionSettings, build, shape_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_AT_ONCE = 64


class _Losses(nn.Module):
    """The terms of the loss of one batch, as one call, so that several processes share its gradients."""

    def __init__(self, network: JointUNet, settings: MediffusionSettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean losses by name; a term without rows is not there."""
        found: dict[str, Tensor] = {}
        if "noisy" in batch:
            found["denoising"] = functional.mse_loss(self.network(batch["noisy"], batch["t"]), batch["noise"])
        if "labelled" in batch:
            logits = self.network.classify(batch["labelled"], batch["labelled_t"])
            found["classification"] = self._classification(logits, batch["targets"])
        if "strong" in batch:
            with torch.no_grad():
                taught = self.network.classify(batch["weak"])
            found["consistency"] = self._consistency(self.network.classify(batch["strong"]), taught)
        return found

    def _classification(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.settings.exclusive:
            return functional.cross_entropy(logits, targets.argmax(dim=1))
        known = torch.isfinite(targets)
        loss = functional.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), reduction="none")
        return (loss * known).sum() / known.sum().clamp(min=1)

    def _consistency(self, logits: Tensor, taught: Tensor) -> Tensor:
        """For one label by the most probable class, for many by each finding on its own."""
        if self.settings.exclusive:
            probability, label = taught.softmax(dim=1).max(dim=1)
            sure = (probability >= self.settings.confidence).float()
            return (functional.cross_entropy(logits, label, reduction="none") * sure).mean()
        probability = taught.sigmoid()
        sure = ((probability >= self.settings.confidence) | (probability <= 1 - self.settings.confidence)).float()
        loss = functional.binary_cross_entropy_with_logits(logits, (probability >= 0.5).float(), reduction="none")  # noqa: PLR2004
        return (loss * sure).mean()


def train(
    settings: MediffusionSettings,
    images: Tensor,
    targets: Tensor,
    out: Path,
    progress: Progress = silent,
    initial: JointDiffusion | None = None,
) -> JointDiffusion:
    """Train to the end, or go on from the checkpoint in `out`.

    Args:
        settings: of the run.
        images: uint8, shape (N, 1, S, S), labelled or not.
        targets: 1, 0 or NaN where nobody said, shape (N, outputs).
        out: folder of the run.
        progress: told now and then.
        initial: a model of the settings' shape to go on from, with its space and its scale; None begins anew.

    Returns:
        the averaged model, in eval mode, on the CPU; model.safetensors in `out` has it too.

    Raises:
        TrainingError: data or settings that cannot be used, another run's folder, or a loss that is not finite, with
            its step and term.
        Cancelled: by `progress`; the last checkpoint stays.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    fabric = processes.start(settings.device, settings.precision, partly=True)
    shape = shape_of(settings, targets.shape[1]) if initial is None else initial.network.config
    memory.check(settings, shape, len(images), fabric.device, fabric.world_size)
    data = material(settings, images, targets, out, initial, fabric.device)
    run = _Run(settings, data, fabric, out, initial)
    run.go_on(progress)
    return run.finish()


@torch.no_grad()
def typical(model: JointDiffusion, latents: Tensor, targets: Tensor) -> Tensor:
    """See `JointDiffusion`.

    Args:
        model: in eval mode.
        latents: of images, shape (N, C, s, s).
        targets: 1, 0 or NaN where nobody said, shape (N, outputs).
    """
    said = torch.cat([model.network.classify(part.float()) for part in latents.split(_AT_ONCE)]).sigmoid()
    found = torch.tensor([[1.0, 0.0]]).repeat(targets.shape[1], 1)
    for output in range(targets.shape[1]):
        for answer in (0, 1):
            right = (targets[:, output] == answer) & ((said[:, output] >= 0.5) == bool(answer))  # noqa: PLR2004
            if right.any():
                found[output, answer] = said[right, output].median()
    return found


class _Run:
    """The parts of one training."""

    def __init__(
        self,
        settings: MediffusionSettings,
        data: Material,
        fabric: "Fabric",
        out: Path,
        initial: JointDiffusion | None,
    ) -> None:
        self.settings, self.data, self.fabric, self.out = settings, data, fabric, out
        self.model = deepcopy(initial) or build(settings, data.targets.shape[1], data.scale)
        network = self.model.network
        rates = [
            {"params": network.unet.parameters(), "lr": settings.learning_rate},
            {"params": network.head.parameters(), "lr": settings.head_learning_rate},
        ]
        self.batch = processes.Batch(settings.batch, fabric.global_rank, fabric.world_size)
        self.labelled = processes.Batch(settings.labelled_batch, fabric.global_rank, fabric.world_size)
        self.generator = self.batch.generator.manual_seed(settings.seed)
        self.known = torch.isfinite(data.targets).any(dim=1).nonzero()[:, 0]
        how = {"device", "precision", "steps", "threads", "report_every", "checkpoint_every"}
        named = {key: value for key, value in asdict(settings).items() if key not in how}
        start = () if initial is None else tuple(initial.network.state_dict().values())
        self.training = Averaged(
            network,
            _Losses(network, settings),
            rates,
            Course(
                steps=settings.steps,
                average=settings.average,
                report_every=settings.report_every,
                checkpoint_every=settings.checkpoint_every,
            ),
            fabric=fabric,
            generator=self.generator,
            path=out / "checkpoint.pt",
            mark=checkpoints.fingerprint(data.weak[:1], data.targets, *start, named),
        )
        if self.training.step > settings.steps:
            raise TrainingError(
                f"{out} was trained for {self.training.step} steps already, and {settings.steps} are asked for; use "
                "another folder, or remove it"
            )

    def go_on(self, progress: Progress) -> None:
        """Train from the step that was reached to the last."""
        settings = self.settings
        weights = {
            "denoising": 1.0,
            "classification": settings.weight if settings.diffusion else 1.0,
            "consistency": settings.unlabelled_weight,
        }
        self.training.go_on(self._drawn, lambda _step: weights, progress)

    def _drawn(self, step: int) -> dict[str, Tensor]:
        """This process's rows of the next batch, drawn alike in all of them."""
        settings, data, device = self.settings, self.data, self.fabric.device
        batch: dict[str, Tensor] = {}
        if settings.diffusion:
            z = self._rows(data.weak, torch.arange(data.weak.shape[1]), settings.batch)
            t = torch.randint(STEPS, (settings.batch,), generator=self.generator)
            noise = torch.randn(z.shape, generator=self.generator)
            left = self.model.left.cpu()[t]
            batch |= {"noisy": noised(z, noise, left), "t": t, "noise": noise}
        if step % settings.every == 0:
            where = self.known[torch.randint(len(self.known), (settings.labelled_batch,), generator=self.generator)]
            z, t = self._views(data.weak, where), torch.zeros(settings.labelled_batch, dtype=torch.long)
            if settings.noisy:
                t = torch.randint(settings.noisy + 1, t.shape, generator=self.generator)
                noise = torch.randn(z.shape, generator=self.generator)
                z = torch.where((t > 0).view(-1, 1, 1, 1), noised(z, noise, self.model.left.cpu()[t]), z)
            batch |= {"labelled": z, "labelled_t": t, "targets": data.targets[where]}
        if settings.unlabelled == "fixmatch":
            where = torch.randint(data.weak.shape[1], (settings.batch,), generator=self.generator)
            batch |= {"weak": self._views(data.weak, where), "strong": self._views(data.strong, where)}
        own = {"labelled", "labelled_t", "targets"}
        parts = {name: (self.labelled if name in own else self.batch).part for name in batch}
        return {name: values[parts[name]].to(device) for name, values in batch.items()}

    def _rows(self, views: Tensor, among: Tensor, count: int) -> Tensor:
        return self._views(views, among[torch.randint(len(among), (count,), generator=self.generator)])

    def _views(self, views: Tensor, where: Tensor) -> Tensor:
        """One view of each image at `where`."""
        which = torch.randint(len(views), where.shape, generator=self.generator)
        return views[which, where].float()

    def finish(self) -> JointDiffusion:
        """The averaged model, kept in model.safetensors; what was measured on the way in model.json."""
        self.training.finish()
        model = self.model.cpu().eval()
        model.typical.copy_(typical(model, self.data.weak[0], self.data.targets))
        if self.fabric.is_global_zero:
            save_model(self.out / "model.safetensors", model)
            write_json(self.out / "model.json", {"settings": asdict(self.settings), "history": self.training.history})
        self.fabric.barrier()
        return model
