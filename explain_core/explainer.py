"""Run a model bundle: decide about a radiograph and explain the decision by any method that the bundle serves.

A method is served when it is registered (`methods/`, or a folder added by `plugins.add_folder`), when what it needs of
the classifier and the generators is there, and when the bundle declares the scale of its maps: a table
[heatmap.METHOD], measured on validation images, without which a map of no evidence could not be told from one of much.
"""

import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explain_core import plugins, progress
from explain_core.augmentation import registered_average
from explain_core.blur import weighted_blur
from explain_core.bundles.bundle import Bundle, load
from explain_core.bundles.files import need_scales
from explain_core.classifier import DecisionRule
from explain_core.engine import choose_device, for_inference
from explain_core.errors import AttributionError, BundleError
from explain_core.explanation import (
    Assessment,
    Attribution,
    Counterfactual,
    Explanation,
    ModelIdentity,
    Morph,
    Prediction,
    Provenance,
    SecondOpinion,
    reported,
)
from explain_core.geometry import Preprocessing
from explain_core.method import (
    AttributedMethod,
    ControlledMethod,
    CounterfactualMethod,
    DecisionMethod,
    Method,
    obstacle,
)
from explain_core.plugins import METHODS
from explain_core.quality.removal import deletion
from explain_core.radiograph import Radiograph
from explain_core.statistics import image_statistics

DELETION_STEPS = 12
DEFAULT_METHOD = "similar_adversarial"
GIVEN = frozenset({"network", "rule"})
"""What a method gets from the bundle; its other settings are its own."""
_SOFTWARE = metadata.version("dicom-explanation-node")


class BundleExplainer:
    """A bundle on a device, ready to classify and explain; satisfies `explanation.Explainer`.

    Args:
        bundle: what `bundle.load` returned.
        device: "auto", "cpu" or "cuda[:n]".
        augmentations: copies averaged by equation (11); 0 explains the image itself, once; None is the bundle's number.
        seed: of the random transforms.
    """

    def __init__(
        self, bundle: Bundle, *, device: str = "auto", augmentations: int | None = None, seed: int = 0
    ) -> None:
        self.bundle = bundle
        self.device = choose_device(device)
        self.augmentations = bundle.augmentations if augmentations is None else augmentations
        self.seed = seed
        classifier = bundle.tempered()
        self._classifier = for_inference(classifier, self.device) if isinstance(classifier, nn.Module) else classifier
        self._networks: dict[str, Any] = {}
        if bundle.generators is not None:
            self._networks["generators"] = for_inference(bundle.generators, self.device)
        if bundle.attributes is not None:
            self._networks["diffex"] = bundle.attributes.on(self.device)
        self._second = None if bundle.second is None else bundle.second.on(self.device)
        self._methods: dict[str, Method] = {}
        self._prepared: tuple[weakref.ref[NDArray[np.float32]], Preprocessing, Tensor] | None = None

    @property
    def identity(self) -> ModelIdentity:
        """The bundle's name, version and digest."""
        return self.bundle.identity

    @property
    def method(self) -> str:
        """The method that explains where none is named: DEFAULT_METHOD, or the first that the bundle serves."""
        return DEFAULT_METHOD if DEFAULT_METHOD in self.bundle.heatmaps else next(iter(self.bundle.heatmaps))

    @torch.no_grad()
    def classify(self, radiograph: Radiograph) -> Assessment:
        """Classify one radiograph without saying why.

        Raises:
            GeometryError: the image is constant or not finite.
            AttributionError: what the classifier says is no number.
        """
        return self._assess(*self._prepare(radiograph))

    @torch.no_grad()
    def explain(
        self, radiograph: Radiograph, methods: Sequence[str], assessment: Assessment | None = None
    ) -> tuple[Explanation, ...]:
        """Say why a radiograph is decided as it is, on the source's pixel grid, once by each method.

        Args:
            radiograph: the image.
            methods: names of methods that the bundle serves.
            assessment: what `classify` has said of this radiograph; None classifies it now.

        Raises:
            BundleError: see `require`.
            GeometryError: the image is constant or not finite.
            AttributionError: a map that cannot be used; the message names its method.
        """
        self.require(methods)
        preprocessing, image = self._prepare(radiograph)
        assessment = assessment or self._assess(preprocessing, image)
        found = []
        for number, name in enumerate(methods):
            with progress.step(number, len(methods)):
                found.append(self._explained(name, preprocessing, image, assessment))
        return tuple(found)

    def require(self, methods: Sequence[str]) -> None:
        """Refuse the first of `methods` that the bundle does not serve.

        Raises:
            BundleError: the message names the method and says what to do.
        """
        for name in methods:
            self._method(name)
        need_scales(methods, self.bundle.heatmaps)

    def _explained(self, name: str, preprocessing: Preprocessing, image: Tensor, assessment: Assessment) -> Explanation:
        method, positive = self._method(name), assessment.prediction.positive
        decision = torch.tensor([int(positive)], device=self.device)
        made = self._images(method, preprocessing, image, decision)
        values, coverage = self.shown(image, decision, name)

        def decided(images: Tensor) -> Tensor:
            """Probability of the decision."""
            return self.probabilities(images) if positive else 1 - self.probabilities(images)

        return Explanation(
            prediction=assessment.prediction,
            attribution=Attribution(
                values=preprocessing.restore(_plane(values)),
                covered=preprocessing.restore(_plane(coverage)) > 0,
                scale=self.bundle.heatmaps[name].scale,
                evident=positive,
            ),
            similar=made.get("similar"),
            adversarial=made.get("adversarial"),
            control=made.get("control"),
            second=self._second_opinion(image) if made else None,
            morphs=self._morphs(method, preprocessing, image, decision),
            provenance=self._provenance(name, method),
            out_of_distribution=assessment.out_of_distribution,
            deletion=reported(deletion(decided, image, values, steps=DELETION_STEPS)),
            statistics=assessment.statistics,
            seen=preprocessing.unpad(_plane(image)),
        )

    def _prepare(self, radiograph: Radiograph) -> tuple[Preprocessing, Tensor]:
        """How a radiograph comes to the model's grid, and the image there, shape (1, 1, S, S).

        Of the latest one both are kept: who classifies an image explains it next.
        """
        pixels = radiograph.pixels
        if self._prepared is None or self._prepared[0]() is not pixels:
            preprocessing = Preprocessing.of(pixels, self.bundle.input_spec)
            image = torch.from_numpy(preprocessing.apply(pixels))[None, None]
            self._prepared = weakref.ref(pixels), preprocessing, image.to(self.device)
        return self._prepared[1:]

    def _assess(self, preprocessing: Preprocessing, image: Tensor) -> Assessment:
        judge, seen = self.bundle.outlier, preprocessing.unpad(_plane(image))
        return Assessment(
            prediction=Prediction(
                label=self.bundle.label,
                probability=reported(float(self.probabilities(image)), self.bundle.threshold),
                threshold=self.bundle.threshold,
                margin=self.bundle.margin,
            ),
            out_of_distribution=None if judge is None else judge(seen),
            provenance=Provenance.of_decision(self.identity, _SOFTWARE),
            statistics=image_statistics(seen, preprocessing.source_shape),
        )

    def _images(
        self, method: Method, preprocessing: Preprocessing, image: Tensor, decision: Tensor
    ) -> dict[str, Counterfactual]:
        """What the method generates, by its role; nothing where it generates nothing."""
        made: dict[str, Tensor] = {}
        if isinstance(method, CounterfactualMethod):
            made["similar"], made["adversarial"] = method.images(self._classifier, image, decision)
        if isinstance(method, ControlledMethod):
            made["control"] = method.control(self._classifier, image, decision)
        if not made:
            return {}
        together = torch.cat([*made.values()])
        own, second = self.probabilities(together).tolist(), self._second
        others: Sequence[Any] = [None] * len(own) if second is None else second.probabilities(together).tolist()
        return {
            role: Counterfactual(
                role=role,
                image=preprocessing.unpad(_plane(image)),
                probability=reported(probability, self.bundle.threshold),
                second=None if second is None else reported(other, second.threshold),
            )
            for (role, image), probability, other in zip(made.items(), own, others, strict=True)
        }

    def _morphs(
        self, method: Method, preprocessing: Preprocessing, image: Tensor, decision: Tensor
    ) -> tuple[Morph, ...]:
        """The image along the attributes that the method applied; nothing where it has none."""
        if not isinstance(method, AttributedMethod):
            return ()
        (applied,) = method.applied(self._classifier, image, decision)
        return tuple(
            Morph(
                name=one.name,
                parts=one.parts,
                images=np.stack([preprocessing.unpad(_plane(frame[None])) for frame in one.images]),
                probabilities=tuple(reported(float(p)) for p in self.probabilities(one.images)),
            )
            for one in applied
        )

    def _second_opinion(self, image: Tensor) -> SecondOpinion | None:
        if (second := self._second) is None:
            return None
        probability = reported(float(second.probabilities(image)), second.threshold)
        return SecondOpinion(name=second.name, probability=probability, threshold=second.threshold)

    def probabilities(self, images: Tensor) -> Tensor:
        """f(x) of grey images in [0, 1], shape (N, 1, S, S) -> shape (N,), in [0, 1]."""
        return torch.sigmoid(self._classifier(images)[:, 0])

    def decisions(self, probabilities: Tensor) -> Tensor:
        """y(x) = f(x) >= threshold as 0 or 1, shape (N,)."""
        return (probabilities >= self.bundle.threshold).long()

    def counterfactuals(self, images: Tensor, decisions: Tensor, method: str | None = None) -> tuple[Tensor, Tensor]:
        """(x_s, x_a) of grey images in [0, 1], shape (N, 1, S, S), and their decisions; clipped, same shape.

        Raises:
            BundleError: the method makes none.
        """
        name = method or self.method
        made = self._method(name)
        if not isinstance(made, CounterfactualMethod):
            raise BundleError(f"the method {name} makes no counterfactual images")
        return made.images(self._classifier, images, decisions)

    def heatmap(
        self, images: Tensor, decisions: Tensor, method: str | None = None, augmentations: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Maps, shape (N, 1, S, S), and coverage, shape (1, 1, S, S), of images: of one pass, or of equation (11).

        The copies of an image are explained under the image's own decision where the method can be told one, so that
        all explain one thing.

        Args:
            images: grey, in [0, 1], shape (N, 1, S, S).
            decisions: 0 or 1, shape (N,).
            method: its name, None for `self.method`; whether the bundle has a scale for it does not matter here.
            augmentations: copies, 0 for one pass; None is the explainer's own number.

        Raises:
            BundleError: the method is not registered, or cannot explain this classifier.
            AttributionError: maps of another shape, not finite or below 0.
        """
        count = self.augmentations if augmentations is None else augmentations
        maps = partial(self._maps, method or self.method)
        if count == 0:
            return maps(images, decisions), torch.ones_like(images[:1])
        return registered_average(
            lambda copies, of: maps(copies, decisions[of]), images, self.bundle.augmentation, count, self.seed
        )

    def shown(
        self, images: Tensor, decisions: Tensor, method: str | None = None, blur: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """`heatmap` as it is shown: smoothed by the blur of the bundle's table, or by another one.

        A pixel that no copy saw has no value: it takes nothing away from its neighbours.
        """
        maps, coverage = self.heatmap(images, decisions, method)
        width = self.bundle.heatmaps[method or self.method].blur if blur is None else blur
        return weighted_blur(maps, width * images.shape[-1], coverage > 0), coverage

    def _maps(self, name: str, images: Tensor, decisions: Tensor) -> Tensor:
        """One pass of a method over a batch."""
        method = self._method(name)
        if isinstance(method, DecisionMethod):
            maps = method.maps(self._classifier, images, decisions)
        else:
            with torch.set_grad_enabled(method.needs_gradients):
                maps = method(self._classifier, images, torch.zeros_like(decisions))
        if maps.shape != images.shape:
            raise AttributionError(
                f"the method {name} gave maps of shape {tuple(maps.shape)}, not {tuple(images.shape)}"
            )
        if not bool((torch.isfinite(maps) & (maps >= 0)).all()):
            raise AttributionError(f"the map of the method {name} has values that are not finite or below 0")
        return maps

    def _method(self, name: str) -> Method:
        """A method with the bundle's networks and rule.

        Raises:
            BundleError: it is not registered, or cannot explain this classifier.
        """
        if name not in self._methods:
            try:
                self._methods[name] = self._made(name)
            except BundleError:
                raise
            except Exception as error:  # the file may be a site's own
                reason = error if isinstance(error, LookupError) else f"{type(error).__name__}: {error}"
                raise BundleError(f"the method {name} cannot be loaded: {reason}") from error
        return self._methods[name]

    def _made(self, name: str) -> Method:
        plugin = plugins.load(METHODS, name)
        reason = obstacle(plugin, self.bundle.classifier, self._networks)
        if reason is not None:
            raise BundleError(f"the method {name} cannot explain this bundle: {reason}; name another method")
        rule = DecisionRule(threshold=self.bundle.threshold)
        given = {"network": self._networks.get(plugin.trained_by), "rule": rule}
        fields = {field.name for field in dataclasses.fields(plugin)}
        method: Method = plugin(**{key: value for key, value in given.items() if key in fields})
        return method

    def _provenance(self, name: str, method: Method) -> Provenance:
        parameters: dict[str, str | int | float] = {
            "augmentations": self.augmentations,
            "blur": self.bundle.heatmaps[name].blur,
            **_settings(name, method),
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
            method=name,
            parameters=parameters,
            reference=method.reference,
            software_version=_SOFTWARE,
        )


def _settings(method_name: str, method: Any) -> Mapping[str, str | int | float]:
    """The method's own settings, under names that no parameter of the averaging has."""
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    return {
        f"{method_name}.{name}": value
        for name, value in values.items()
        if name not in GIVEN and isinstance(value, str | int | float)
    }


def _plane(images: Tensor) -> NDArray[np.float32]:
    """The first image of a batch."""
    return np.asarray(images[0, 0].cpu().numpy())


def open_bundle(
    folder: Path, *, device: str = "auto", augmentations: int | None = None, seed: int = 0
) -> BundleExplainer:
    """Verify, load and put a bundle on a device.

    Raises:
        BundleError: see `bundle.load`.
    """
    return BundleExplainer(load(folder), device=device, augmentations=augmentations, seed=seed)
