"""Read, verify and run a model bundle: everything one model version needs, in one folder.

    bundle.toml              names, architectures, input geometry, threshold and its margin, temperature, heatmap scale,
                             training summary
    classifier.safetensors   weights, float16 or float32; or, instead, the whole classifier as classifier.onnx or
                             classifier.pt (TorchScript), for an architecture of that name
    generators.safetensors
    outlier.safetensors      optional, with the table [outlier]: what the training images look like (`outlier.py`)
    reference.json           optional: what the validation images look like to the model, in numbers (`statistics.py`)
    model_card.md
    SHA256SUMS               of every other file, as sha256sum writes it; its own SHA-256 is the bundle's digest

Nothing is loaded before every checksum holds, and weights are data: no pickle, no code. The exception is a TorchScript
classifier, which is a program (`classifiers/torchscript.py`).
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from explain_core import plugins
from explain_core.augmentation import registered_average
from explain_core.bundle_files import OUTLIER, SUMS, WEIGHTS, listed, verify
from explain_core.classifier import Classifier, tempered
from explain_core.engine import choose_device, for_inference
from explain_core.errors import AttributionError, BundleError
from explain_core.explanation import (
    Assessment,
    Attribution,
    Counterfactual,
    Explanation,
    HeatmapScale,
    ModelIdentity,
    Prediction,
    Provenance,
)
from explain_core.generators.similar_adversarial import SimilarAdversarial
from explain_core.geometry import AffineRange, InputSpec, Preprocessing
from explain_core.methods.similar_adversarial import SimilarAdversarialMethod
from explain_core.opening import opened
from explain_core.outlier import OutlierModel, OutlierTest
from explain_core.quality.removal import deletion
from explain_core.radiograph import Radiograph
from explain_core.statistics import REFERENCE, image_statistics, load_reference

DELETION_STEPS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified bundle's description and weights, not yet on a device.

    Attributes:
        margin: half-width of the band around the threshold in which a decision is uncertain.
        opening: side in pixels of the square below which nothing is shown in heatmaps (`opening.py`), odd.
        outlier: judges how unlike the training images an image is; None in a bundle that does not say.
        classifier: as it was trained; its logits are not divided by the temperature.
        temperature: probability = sigmoid(logit / temperature), > 0.
        reference: statistics of the validation images (`statistics.reference_of`); None in a bundle without them.
    """

    identity: ModelIdentity
    label: str
    threshold: float
    margin: float
    input_spec: InputSpec
    scale: HeatmapScale
    opening: int
    outlier: OutlierTest | None
    augmentation: AffineRange
    classifier: Classifier
    generators: SimilarAdversarial
    description: Mapping[str, Any]
    temperature: float = 1.0
    reference: Mapping[str, Any] | None = None

    def tempered(self) -> Classifier:
        """The classifier with its logits divided by the temperature: what every probability is made of."""
        return tempered(self.classifier, self.temperature)


def load(folder: Path) -> Bundle:
    """Verify and read the bundle in `folder`.

    Raises:
        BundleError: checksum, description or weights are wrong; the message names the file.
    """
    digest = verify(folder)
    description_path = folder / "bundle.toml"
    try:
        description = tomllib.loads(description_path.read_text())
        generator, heatmap = description["generators"], description["heatmap"]
        generators = SimilarAdversarial(
            generator["filters"],
            kind=generator["kind"],
            head_layers=generator["head_layers"],
            output=generator["output"],
            dropout=generator["dropout"],
            decisions=generator["decisions"],
        )
        bundle = Bundle(
            identity=ModelIdentity(name=description["name"], version=description["version"], digest=digest),
            label=description["label"],
            threshold=float(description["threshold"]),
            margin=float(description.get("margin", 0.0)),
            input_spec=InputSpec(
                size=description["input"]["size"], percentiles=tuple(description["input"]["percentiles"])
            ),
            scale=HeatmapScale(**{name: heatmap[name] for name in ("floor", "full_scale", "unit") if name in heatmap}),
            opening=_odd(heatmap.get("opening", 1)),
            outlier=_outlier(folder, description),
            augmentation=AffineRange(**description["augmentation"]),
            classifier=_classifier(folder, description),
            generators=generators,
            description=description,
            temperature=_temperature(description.get("temperature", 1.0)),
            reference=load_reference(folder / REFERENCE) if REFERENCE in listed(folder / SUMS) else None,
        )
    except (KeyError, TypeError, ValueError, LookupError) as error:
        raise BundleError(f"{description_path}: {type(error).__name__}: {error}") from error
    _fill(generators, folder / "generators.safetensors")
    return bundle


def _classifier(folder: Path, description: Mapping[str, Any]) -> Classifier:
    """The classifier of the description's architecture: filled with weights, or read whole from its own file."""
    plugin = plugins.load("explain_core.classifiers", description["classifier"]["architecture"])
    outputs = len(description["classifier"]["outputs"])
    file_name: str | None = getattr(plugin, "file_name", None)
    if file_name is not None:
        return cast("Classifier", plugin(folder / file_name, outputs, description["input"]["size"]))
    model = plugin(outputs)
    _fill(model, folder / WEIGHTS)
    return cast("Classifier", model)


def _odd(width: int) -> int:
    if width < 1 or width % 2 == 0:
        raise ValueError(f"the opening of a heatmap is odd, got {width}")
    return width


def _temperature(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"the temperature is a finite number above 0, got {value}")
    return float(value)


def _outlier(folder: Path, description: Mapping[str, Any]) -> OutlierTest | None:
    """The test of the table [outlier] and its file; None without the table.

    Raises:
        KeyError, ValueError: the table without its file, or a file that does not fit.
    """
    table = description.get("outlier")
    if table is None:
        return None
    if OUTLIER not in listed(folder / SUMS):
        raise ValueError(f"the table [outlier] needs {OUTLIER} in {SUMS}")
    model = OutlierModel.load(folder / OUTLIER)
    return OutlierTest(model=model, limit=float(table["limit"]), measure=table["measure"])


def _fill(model: nn.Module, path: Path) -> None:
    own = model.state_dict()
    try:
        weights = load_file(path)
        model.load_state_dict({name: weights[name].to(value.dtype) for name, value in own.items()})
    except Exception as error:
        raise BundleError(f"{path}: the weights do not fit the architecture: {error}") from error


class BundleExplainer:
    """A bundle on a device, ready to classify and explain; satisfies `explanation.Explainer`.

    Args:
        bundle: what `load` returned.
        device: "auto", "cpu" or "cuda[:n]".
        augmentations: copies averaged by equation (11); 0 explains the image itself, once.
        seed: of the random transforms.
    """

    def __init__(self, bundle: Bundle, *, device: str = "auto", augmentations: int = 10, seed: int = 0) -> None:
        self.bundle = bundle
        self.device = choose_device(device)
        self.augmentations = augmentations
        self.seed = seed
        classifier = bundle.tempered()
        self._classifier = for_inference(classifier, self.device) if isinstance(classifier, nn.Module) else classifier
        self._method = SimilarAdversarialMethod(network=for_inference(bundle.generators, self.device))

    @property
    def identity(self) -> ModelIdentity:
        """The bundle's name, version and digest."""
        return self.bundle.identity

    @torch.inference_mode()
    def classify(self, radiograph: Radiograph) -> Assessment:
        """Classify one radiograph without saying why.

        Raises:
            GeometryError: the image is constant or not finite.
        """
        return self._assess(*self._prepare(radiograph))

    @torch.inference_mode()
    def explain(self, radiograph: Radiograph) -> Explanation:
        """Classify one radiograph and say why, on the source's pixel grid.

        Raises:
            GeometryError: the image is constant or not finite.
            AttributionError: the map is not finite.
        """
        preprocessing, image = self._prepare(radiograph)
        assessment = self._assess(preprocessing, image)
        positive = assessment.prediction.positive
        decision = torch.tensor([int(positive)], device=self.device)
        x_s, x_a = self.counterfactuals(image, decision)
        values, coverage = self.shown(image, decision)
        if not bool(torch.isfinite(values).all()):
            raise AttributionError("the heatmap has values that are not finite")

        def decided(images: Tensor) -> Tensor:
            """Probability of the decision."""
            return self.probabilities(images) if positive else 1 - self.probabilities(images)

        return Explanation(
            prediction=assessment.prediction,
            attribution=Attribution(
                values=preprocessing.restore(_plane(values)),
                covered=preprocessing.restore(_plane(coverage)) > 0,
                scale=self.bundle.scale,
            ),
            similar=self._counterfactual("similar", preprocessing, x_s),
            adversarial=self._counterfactual("adversarial", preprocessing, x_a),
            provenance=assessment.provenance,
            out_of_distribution=assessment.out_of_distribution,
            deletion=_rounded(deletion(decided, image, values, steps=DELETION_STEPS)),
            statistics=assessment.statistics,
            seen=preprocessing.unpad(_plane(image)),
        )

    def _prepare(self, radiograph: Radiograph) -> tuple[Preprocessing, Tensor]:
        """How a radiograph comes to the model's grid, and the image there, shape (1, 1, S, S)."""
        preprocessing = Preprocessing.of(radiograph.pixels, self.bundle.input_spec)
        image = torch.from_numpy(preprocessing.apply(radiograph.pixels))[None, None]
        return preprocessing, image.to(self.device)

    def _assess(self, preprocessing: Preprocessing, image: Tensor) -> Assessment:
        judge, seen = self.bundle.outlier, preprocessing.unpad(_plane(image))
        return Assessment(
            prediction=Prediction(
                label=self.bundle.label,
                probability=_rounded(float(self.probabilities(image))),
                threshold=self.bundle.threshold,
                margin=self.bundle.margin,
            ),
            out_of_distribution=None if judge is None else judge(seen),
            provenance=self._provenance(),
            statistics=image_statistics(seen, preprocessing.source_shape),
        )

    def _counterfactual(self, role: str, preprocessing: Preprocessing, image: Tensor) -> Counterfactual:
        shown = preprocessing.unpad(_plane(image))
        return Counterfactual(role=role, image=shown, probability=_rounded(float(self.probabilities(image))))

    def probabilities(self, images: Tensor) -> Tensor:
        """f(x) of grey images in [0, 1], shape (N, 1, S, S) -> shape (N,), in [0, 1]."""
        return torch.sigmoid(self._classifier(images)[:, 0])

    def decisions(self, probabilities: Tensor) -> Tensor:
        """y(x) = f(x) >= threshold as 0 or 1, shape (N,)."""
        return (probabilities >= self.bundle.threshold).long()

    def counterfactuals(self, images: Tensor, decisions: Tensor) -> tuple[Tensor, Tensor]:
        """(x_s, x_a) of grey images in [0, 1], shape (N, 1, S, S), and their decisions; clipped, same shape."""
        return self._method.images(images, decisions)

    def heatmap(self, images: Tensor, decisions: Tensor) -> tuple[Tensor, Tensor]:
        """Maps, shape (N, 1, S, S), and coverage, shape (1, 1, S, S), of images: equation (3) or (11).

        The copies of an image are explained under the image's own decision, so that all explain one thing.
        """
        if self.augmentations == 0:
            return self._method.maps(images, decisions), torch.ones_like(images[:1])
        copied = decisions.repeat_interleave(self.augmentations)
        return registered_average(
            lambda copies: self._method.maps(copies, copied),
            images,
            self.bundle.augmentation,
            self.augmentations,
            self.seed,
        )

    def shown(self, images: Tensor, decisions: Tensor) -> tuple[Tensor, Tensor]:
        """`heatmap` as it is shown: without what is narrower than the bundle's opening."""
        maps, coverage = self.heatmap(images, decisions)
        return opened(maps, self.bundle.opening), coverage

    def _provenance(self) -> Provenance:
        parameters: dict[str, str | int | float] = {
            "augmentations": self.augmentations,
            "opening": self.bundle.opening,
        }
        if self.augmentations:
            ranges = self.bundle.augmentation
            parameters |= {
                "seed": self.seed,
                "degrees": ranges.degrees,
                "height_shift": round(ranges.height_shift, 4),
                "width_shift": round(ranges.width_shift, 4),
                "zoom": ranges.zoom,
                "horizontal_flip": ranges.horizontal_flip,
                "vertical_flip": ranges.vertical_flip,
            }
        return Provenance(
            model=self.identity,
            method="similar_adversarial",
            parameters=parameters,
            reference=self._method.reference,
            software_version=metadata.version("dicom-explanation-node"),
        )


def _plane(images: Tensor) -> NDArray[np.float32]:
    """The first image of a batch."""
    plane: NDArray[np.float32] = images[0, 0].cpu().numpy()
    return plane


def _rounded(value: float) -> float:
    """To 4 decimals, far above what the number of threads or the processor changes, so that texts repeat."""
    return round(value, 4)


def open_bundle(folder: Path, *, device: str = "auto", augmentations: int = 10, seed: int = 0) -> BundleExplainer:
    """Verify, load and put a bundle on a device.

    Raises:
        BundleError: see `load`.
    """
    return BundleExplainer(load(folder), device=device, augmentations=augmentations, seed=seed)
