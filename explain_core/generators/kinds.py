"""The kinds of generators that a bundle or a training run can name, and how one is built from its description."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from explain_core.classifier import Classifier, Look, look
from explain_core.generators.features import KIND, FeatureGenerators
from explain_core.generators.similar_adversarial import SimilarAdversarial

Generators = SimilarAdversarial | FeatureGenerators

NONE = "none"
"""The kind of a bundle whose methods need no generators."""
ON_PIXELS = ("filters", "kind", "head_layers", "output", "dropout", "decisions")
ON_FEATURES = ("kind", "channels", "evidence", "width", "gated", "target", "decisions")
"""The keys of a description, kind by kind."""


def description_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings of a training run, what describes the architecture."""
    return {key: settings[key] for key in (ON_FEATURES if settings["kind"] == KIND else ON_PIXELS)}


def build(description: Mapping[str, Any]) -> Generators:
    """Untrained generators.

    Args:
        description: the table [generators] of bundle.toml: `kind`, and the keys of that kind.

    Raises:
        KeyError, ValueError: a key is missing, or there is no such kind.
    """
    if description["kind"] == KIND:
        arguments = {key: description[key] for key in ON_FEATURES if key not in ("kind", "channels")}
        return FeatureGenerators(description["channels"], **arguments)
    arguments = {key: description[key] for key in ON_PIXELS if key != "filters"}
    return SimilarAdversarial(description["filters"], **arguments)


def seen_by(network: Generators, classifier: Classifier, images: Tensor) -> Look:
    """The classifier's one pass over the images: its logits and, where these generators read them, its features."""
    return look(classifier, images) if network.reads_features else Look(classifier(images), ())
