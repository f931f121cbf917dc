"""What an origin server says of each instance: the Store Instances Response Module (PS3.18 section 10.5.3, annex I.2).

In DICOM JSON (PS3.18 annex F) or as Native DICOM Model (PS3.19 annex A). It comes from outside: whatever is not
understood is left out, and an instance that is not named has no outcome.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree as ET

PROCESSING_FAILURE = 0x0110

_FAILURE_REASON, _WARNING_REASON = "00081197", "00081196"
_FAILED, _STORED = "00081198", "00081199"
_INSTANCE = "00081155"

Item = dict[str, Any]
"""Values by tag: a number, a word, or the items of a sequence."""


class NotUnderstood(ValueError):
    """It is no Store Instances Response."""


def read(content_type: str, body: bytes) -> tuple[dict[str, int], dict[str, int]]:
    """The instances that an answer names.

    Args:
        content_type: of the answer.
        body: the whole of it.

    Returns:
        by SOP Instance UID, what was stored with its Warning Reason (0 without one), and what failed with its
        Failure Reason (0x0110 without one). What is named as both has failed.

    Raises:
        NotUnderstood: it is something else.
    """
    try:
        answer = _from_xml(ET.fromstring(_plain(body))) if "xml" in content_type else _from_json(json.loads(body))  # noqa: S314 - see _plain
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError, ET.ParseError):
        raise NotUnderstood from None
    if not {_FAILED, _STORED} & answer.keys():
        raise NotUnderstood
    failed = {uid: _number(item.get(_FAILURE_REASON)) or PROCESSING_FAILURE for uid, item in _items(answer, _FAILED)}
    stored = {uid: _number(item.get(_WARNING_REASON)) or 0 for uid, item in _items(answer, _STORED)}
    return {uid: reason for uid, reason in stored.items() if uid not in failed}, failed


def _plain(body: bytes) -> bytes:
    """XML without a document type, whose entities would be all that is dangerous in it."""
    if b"<!DOCTYPE" in body:
        raise ValueError
    return body


def _items(answer: Item, tag: str) -> Iterator[tuple[str, Item]]:
    for item in answer.get(tag) or ():
        if isinstance(item, dict) and isinstance(uid := item.get(_INSTANCE), str):
            yield uid.strip("\0 "), item


def _number(value: object) -> int | None:
    if isinstance(value, str):
        try:
            value = int(value, 0)
        except ValueError:
            return None
    return value & 0xFFFF if isinstance(value, int) else None  # US (PS3.5 section 6.2)


def _from_json(found: Any) -> Item:
    if isinstance(found, list):  # of data sets, with the one
        (found,) = found
    return {tag: _json_value(element) for tag, element in found.items() if isinstance(element, Mapping)}


def _json_value(element: Mapping[str, Any]) -> Any:
    values = element.get("Value") or [None]
    if element.get("vr") == "SQ":
        return [_from_json(item) for item in values if isinstance(item, Mapping)]
    return values[0]


def _from_xml(element: ET.Element) -> Item:
    return {one.get("tag", ""): _xml_value(one) for one in element if _name(one) == "DicomAttribute"}


def _xml_value(element: ET.Element) -> Any:
    items = [_from_xml(one) for one in element if _name(one) == "Item"]
    if items or element.get("vr") == "SQ":
        return items
    return next((one.text for one in element if _name(one) == "Value"), None)


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]
