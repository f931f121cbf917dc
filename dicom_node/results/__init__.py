"""Result objects: `objects` has one builder per file, the modules here hold what they share.

A builder is a module of `objects` whose `PLUGIN` is a `Builder`. Builders do not import each other.
"""

from dicom_node.results.context import (
    AssessedImage,
    Builder,
    ExplainedImage,
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
    "ExplainedImage",
    "Refusal",
    "ResultContext",
    "ResultOptions",
    "SourceReference",
    "StudyContext",
    "result_options",
]
