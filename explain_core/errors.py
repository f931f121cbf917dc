"""Errors of the explanation core.

ExplainError
├─ BundleError        a model bundle is missing, incomplete, or does not match its checksums
├─ GeometryError      an image cannot be brought to the model's input, or back
├─ AttributionError   a method produced a map that cannot be used (NaN, wrong shape)
├─ GradientsNeeded    a method needs gradients that the classifier does not have
├─ FeaturesNeeded     generators or a method read features or evidence that the classifier does not offer
└─ UnknownName        no module, preset or architecture of this name
"""


def install(extra: str) -> str:
    """The command that installs an optional part of the program, which is in no package index."""
    return f'pip install -c constraints.txt ".[{extra}]" in the folder of the source'


class ExplainError(Exception):
    """Base of every error of explain_core; the message says what to do."""


class BundleError(ExplainError):
    """A model bundle is missing, incomplete, or does not match its checksums."""


class GeometryError(ExplainError):
    """An image cannot be brought to the model's input grid, or a map back."""


class AttributionError(ExplainError):
    """A method produced a map that cannot be used."""


class GradientsNeeded(ExplainError):
    """The method needs gradients or layers of the classifier, and it has none to offer."""


class FeaturesNeeded(ExplainError):
    """The generators read features of the classifier, and it offers none."""


class UnknownName(ExplainError, LookupError):
    """There is no module, preset or architecture of this name; the message lists those there are."""
