"""Read and verify a model bundle: everything one model version needs, in one folder.

    bundle.toml              names, architectures, input geometry, threshold and its margin, temperature, a table
                             [heatmap.METHOD] for each method that it serves, training summary
    classifier.safetensors   weights, float16 or float32; or, instead, the whole classifier as classifier.onnx or
                             classifier.pt (TorchScript), for an architecture of that name
    generators.safetensors
    second.safetensors       optional, with the table [second]: another classifier, for a second opinion (`second.py`)
    attributes.safetensors   optional: what DiffEx found of this very classifier (`diffex/attributes.py`)
    outlier.safetensors      optional, with the table [outlier]: what the training images look like (`outlier.py`)
    reference.json           optional: what the validation images look like to the model, in numbers (`statistics.py`)
    model_card.md
    SHA256SUMS               of every other file, as sha256sum writes it; its own SHA-256 is the bundle's digest

Nothing is loaded before every checksum holds, and weights are data: no pickle, no code. The exception is a TorchScript
classifier, which is a program (`classifiers/torchscript.py`). `explainer.py` runs what is read here.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors.torch import load_file
from torch import nn

from explain_core import plugins
from explain_core.bundles.files import (
    ATTRIBUTES,
    CLASSIFIERS,
    GENERATORS,
    OUTLIER,
    SECOND,
    SUMS,
    WEIGHTS,
    listed,
    verify,
)
from explain_core.classifier import Classifier, offers, tempered
from explain_core.errors import BundleError
from explain_core.explanation import HeatmapScale, ModelIdentity
from explain_core.generators.kinds import NONE, Generators, build
from explain_core.geometry import AffineRange, InputSpec
from explain_core.outlier import OutlierModel, OutlierTest
from explain_core.second import Second
from explain_core.statistics import REFERENCE, load_reference

if TYPE_CHECKING:
    from explain_core.diffex.attributes import Attributes

AUGMENTATIONS = 10
"""Copies that are averaged where bundle.toml does not say how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """How the maps of one method are shown, measured on validation images: a table [heatmap.METHOD].

    Attributes:
        scale: what their values mean.
        blur: standard deviation of the Gaussian that they are smoothed by, a fraction of the input's width, >= 0.

    Raises:
        ValueError: a blur below 0 or not finite.
    """

    scale: HeatmapScale
    blur: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.blur) and self.blur >= 0):
            raise ValueError(f"the blur of a heatmap is a finite number >= 0, got {self.blur}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified bundle's description and weights, not yet on a device.

    Attributes:
        margin: half-width of the band around the threshold in which a decision is uncertain.
        heatmaps: by method, the scale and the blur of its maps; a method without is not served.
        outlier: judges how unlike the training images an image is; None in a bundle that does not say.
        classifier: as it was trained; its logits are not divided by the temperature.
        temperature: probability = sigmoid(logit / temperature), > 0.
        generators: None in a bundle whose methods need none.
        reference: statistics of the validation images (`statistics.reference_of`); None in a bundle without them.
        second: another classifier, which is asked about generated images; None in a bundle without.
        attributes: what DiffEx found of the classifier; None in a bundle without.
        augmentations: copies averaged by equation (11) where the node's settings do not say; 0 is one pass.
    """

    identity: ModelIdentity
    label: str
    threshold: float
    margin: float
    input_spec: InputSpec
    heatmaps: Mapping[str, Heatmap]
    outlier: OutlierTest | None
    augmentation: AffineRange
    classifier: Classifier
    generators: Generators | None
    description: Mapping[str, Any]
    temperature: float = 1.0
    reference: Mapping[str, Any] | None = None
    augmentations: int = AUGMENTATIONS
    second: Second | None = None
    attributes: "Attributes | None" = None

    def with_generators(self) -> Generators:
        """The generators.

        Raises:
            BundleError: the bundle has none.
        """
        if self.generators is None:
            raise BundleError(f"the bundle {self.identity.name} {self.identity.version} has no generators")
        return self.generators

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
        heatmaps = _heatmaps(description_path, description.get("heatmap", {}))
        generators = None if description["generators"]["kind"] == NONE else build(description["generators"])
        bundle = Bundle(
            identity=ModelIdentity(name=description["name"], version=description["version"], digest=digest),
            label=description["label"],
            threshold=_share("threshold", description["threshold"]),
            margin=_share("margin", description.get("margin", 0.0)),
            input_spec=InputSpec(
                size=description["input"]["size"], percentiles=tuple(description["input"]["percentiles"])
            ),
            heatmaps=heatmaps,
            outlier=_outlier(folder, description),
            augmentation=AffineRange(**description["augmentation"]),
            classifier=_classifier(folder, description),
            generators=generators,
            description=description,
            temperature=_temperature(description.get("temperature", 1.0)),
            reference=load_reference(folder / REFERENCE) if REFERENCE in listed(folder / SUMS) else None,
            augmentations=_count(description.get("augmentations", AUGMENTATIONS)),
            second=_second(folder, description),
            attributes=_attributes(folder),
        )
    except (KeyError, TypeError, ValueError, LookupError) as error:
        raise BundleError(f"{description_path}: {type(error).__name__}: {error}") from error
    if generators is None:
        return bundle
    if generators.reads_features and not offers(bundle.classifier, "features"):
        raise BundleError(
            f"{description_path}: its generators read features of the classifier, and a classifier of the architecture "
            f"{description['classifier']['architecture']} offers none"
        )
    if GENERATORS not in listed(folder / SUMS):
        raise BundleError(f"{folder / SUMS} does not list {GENERATORS}")
    _fill(generators, folder / GENERATORS)
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


def _heatmaps(path: Path, tables: Mapping[str, Any]) -> dict[str, Heatmap]:
    """The tables [heatmap.METHOD] by method.

    Raises:
        BundleError: there is none: bundles had one scale for their only method once.
        TypeError, ValueError: a table that is no scale.
    """
    if not tables or not all(isinstance(table, Mapping) for table in tables.values()):
        raise BundleError(
            f"{path} has no table [heatmap.METHOD]: an earlier version of this software made the bundle; "
            "`python -m training bundle` makes a new one"
        )
    return {
        method: Heatmap(
            scale=HeatmapScale(**{name: value for name, value in table.items() if name != "blur"}),
            blur=table.get("blur", 0.0),
        )
        for method, table in tables.items()
    }


def _count(copies: Any) -> int:
    if not isinstance(copies, int) or isinstance(copies, bool) or copies < 0:
        raise ValueError(f"augmentations is a whole number >= 0, got {copies}")
    return copies


def _share(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} is a number from 0 to 1, got {value!r}")
    return float(value)


def _temperature(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"the temperature is a finite number above 0, got {value}")
    return float(value)


def _outlier(folder: Path, description: Mapping[str, Any]) -> OutlierTest | None:
    """The test of the table [outlier] and its file; None without the table.

    Raises:
        BundleError: the file holds something else.
        KeyError, ValueError: the table without its file, or a table that lacks something.
    """
    table = description.get("outlier")
    if table is None:
        return None
    if OUTLIER not in listed(folder / SUMS):
        raise ValueError(f"the table [outlier] needs {OUTLIER} in {SUMS}")
    try:
        model = OutlierModel.load(folder / OUTLIER)
    except Exception as error:  # of safetensors' own kind, or the arrays do not fit together
        raise BundleError(f"{folder / OUTLIER} cannot be read: {error}") from error
    return OutlierTest(model=model, limit=float(table["limit"]), measure=table["measure"])


def _second(folder: Path, description: Mapping[str, Any]) -> Second | None:
    """The classifier of the table [second] and its file; None without the table.

    Raises:
        KeyError, ValueError: the table without its file, or an architecture without weights to fill in.
    """
    table = description.get("second")
    if table is None:
        return None
    if SECOND not in listed(folder / SUMS):
        raise ValueError(f"the table [second] needs {SECOND} in {SUMS}")
    name = str(table["architecture"])
    plugin = plugins.load("explain_core.classifiers", name)
    if getattr(plugin, "file_name", None) is not None:
        raise ValueError(f"[second] architecture: {name} is a file of its own and no second classifier")
    network = plugin(1)
    _fill(network, folder / SECOND)
    return Second(name, network.eval(), _share("threshold", table["threshold"]), int(table["size"]))


def _attributes(folder: Path) -> "Attributes | None":
    """What DiffEx found of the classifier; None without its file.

    Raises:
        BundleError: the file cannot be read, or it was found of another classifier.
    """
    names = listed(folder / SUMS)
    if ATTRIBUTES not in names:
        return None
    from explain_core.diffex.attributes import load_attributes  # noqa: PLC0415 - slow to import, and few need it

    found = load_attributes(folder / ATTRIBUTES)
    if found.explains not in {names[name] for name in CLASSIFIERS if name in names}:
        raise BundleError(
            f"{folder / ATTRIBUTES} was found of another classifier than the bundle's; make it anew with "
            "`python -m training run diffex --classifier BUNDLE --attach DIR`"
        )
    return found


def _fill(model: nn.Module, path: Path) -> None:
    own = model.state_dict()
    try:
        weights = load_file(path)
        model.load_state_dict({name: weights[name].to(value.dtype) for name, value in own.items()})
    except Exception as error:
        raise BundleError(f"{path}: the weights do not fit the architecture: {error}") from error
