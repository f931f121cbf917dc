"""What a routing rule may say: the `[[rules]]` tables of the settings file as types."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydicom.datadict import dictionary_VR, tag_for_keyword

from dicom_node.nouns import Route

CALLING_AE_TITLE = "CallingAETitle"
BODY_PART = "BodyPart"
VIEW = "View"
_COMPUTED = (CALLING_AE_TITLE, BODY_PART, VIEW)
"""What a condition may ask for besides elements: who sent the image, and what `dicom.codes` makes of all elements that
state the body part (CHEST or OTHER) or the view (PA, AP, FRONTAL, LATERAL or OTHER)."""


def _keyword_path(value: str) -> str:
    *sequences, last = value.split(".")
    if any(tag_for_keyword(part) is None or dictionary_VR(part) != "SQ" for part in sequences):
        raise ValueError("before a dot stands the keyword of a sequence, as in ViewCodeSequence.CodeValue")
    if value not in _COMPUTED and (tag_for_keyword(last) is None or dictionary_VR(last) == "SQ"):
        raise ValueError(f"use the DICOM keyword of an element, such as Modality, or one of {', '.join(_COMPUTED)}")
    return value


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def split_words(value: Any) -> Any:
    """A list written as words with commas between, as in an environment variable, as a list."""
    return [part for part in re.split(r"\s*,\s*", value.strip()) if part] if isinstance(value, str) else value


def result_names() -> tuple[str, ...]:
    """The result objects that there are builders of; the folder is the registry."""
    folder = Path(__file__).parents[1] / "results" / "objects"
    return tuple(sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_")))


def _result_object(value: str) -> str:
    names = result_names()
    if names and value not in names:
        raise ValueError(f"no such result object; there is: {', '.join(names)}")
    return value


class Section(BaseModel):
    """A table of the settings file: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Text = Annotated[str, BeforeValidator(_as_text)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")]
ResultName = Annotated[str, AfterValidator(_result_object)]


class Condition(Section):
    """One condition of a rule; exactly one of `equals`, `in` and `regex`.

    Attributes:
        tag: DICOM keyword, `Sequence.Keyword`, `BodyPart`, `View` or `CallingAETitle`.
        missing: what an absent or empty element means.
    """

    tag: Annotated[str, AfterValidator(_keyword_path)]
    equals: Text | None = None
    one_of: Annotated[tuple[Text, ...] | None, Field(alias="in")] = None
    regex: Annotated[str, AfterValidator(_regex)] | None = None
    missing: Literal["no-match", "match"] = "no-match"

    @model_validator(mode="after")
    def _one_test(self) -> Self:
        if sum(test is not None for test in (self.equals, self.one_of, self.regex)) != 1:
            raise ValueError("a condition has exactly one of equals, in and regex")
        return self


class Rule(Section):
    """[[rules]]: when all conditions hold, the image is explained or ignored."""

    name: Name
    action: Literal["explain", "ignore"]
    when: tuple[Condition, ...] = ()
    reason: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    destinations: Annotated[tuple[Name, ...] | None, BeforeValidator(split_words)] = None
    results: Annotated[tuple[ResultName, ...] | None, BeforeValidator(split_words)] = None

    @model_validator(mode="after")
    def _reason_for_ignoring(self) -> Self:
        if self.action == "ignore" and self.reason is None:
            raise ValueError("a rule that ignores needs a reason")
        return self

    @property
    def route(self) -> Route | None:
        """What the rule does with an image, or None when it ignores it."""
        if self.action == "ignore":
            return None
        return Route(name=self.name, destinations=self.destinations or (), results=self.results or ())
