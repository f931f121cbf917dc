"""Result objects: one builder per file, each a `PLUGIN`; modules with an underscore hold what they share.

A builder is a module of this package whose `PLUGIN` is a `Builder`. Builders do not import each other.
"""

from dicom_node.results.context import (
    AssessedImage,
    Builder,
    Refusal,
    ResultContext,
    ResultOptions,
    SourceReference,
    StudyContext,
)
from dicom_node.results.profile import result_options

__all__ = [
    "AssessedImage",
    "Builder",
    "Refusal",
    "ResultContext",
    "ResultOptions",
    "SourceReference",
    "StudyContext",
    "result_options",
]
