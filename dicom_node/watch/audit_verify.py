"""Whether an audit trail is as it was written, and the first place where it is not.

Without a key a chain shows damage and changes by whoever does not write the whole chain anew: anybody who may write the
files may also compute their digests. With a key that they cannot read they cannot. What neither shows is files that
were put back together with an older head; a line's number and digest, kept elsewhere from an earlier look, show that.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dicom_node.watch.audit_trail import NOTHING, Head, Sealed, files, read_head, unseal


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What an earlier look has seen: that the line of this number has this digest."""

    number: int
    digest: str


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What was found.

    Attributes:
        lines: that fit, from the first to the last or to the first that does not.
        first: number of the first line that is there.
        last: number of the last line that fits.
        digest: of that line; to be kept elsewhere.
        began: where the trail begins: file and time of its first line.
        remarks: what is no fault: older files removed, torn lines, lines without the key.
        fault: the first thing that does not fit; "" where everything does.
    """

    lines: int = 0
    first: int = 0
    last: int = 0
    digest: str = NOTHING
    began: str = ""
    remarks: list[str] = field(default_factory=list)
    fault: str = ""


class _Fault(Exception):
    """The first place that does not fit."""


@dataclass(frozen=True, slots=True)
class _Line:
    place: str
    raw: bytes
    whole: bool


def verify(folder: Path, key: bytes | None = None, noted: Noted | None = None) -> Verdict:
    """Look through a trail, from the oldest file that is there; nothing is changed.

    While a node writes, its last line may be behind the head: that is no fault.

    Args:
        folder: the trail.
        key: that it was written with, or None.
        noted: what an earlier look has seen.
    """
    verdict = Verdict()
    head = read_head(folder, key)  # before the lines: those that come meanwhile are more, never less
    try:
        keyless = _chain(folder, key, noted, verdict)
        _check_end(folder, head, noted, verdict)
        _check_key(key, keyless, verdict)
    except _Fault as fault:
        verdict.fault = str(fault)
    return verdict


def _chain(folder: Path, key: bytes | None, noted: Noted | None, verdict: Verdict) -> int:
    """Go along the chain; how many of its lines have no key."""
    keyless, waiting = 0, list[_Line]()
    for line in _lines(folder):
        found = unseal(line.raw, key)
        if found is None or not _is_next(found, verdict):
            if found is not None and not waiting:
                _explain(found, line, verdict)
            waiting.append(line)
            continue
        _check_remark(found, line, waiting, verdict, keyless)
        waiting = []
        if found.keyed is False and verdict.lines > keyless:
            raise _Fault(f"{line.place}: sealed without the key, after lines that were sealed with it")
        if not verdict.lines:
            _begin(found, line, verdict)
        keyless += not found.keyed
        verdict.lines, verdict.last, verdict.digest = verdict.lines + 1, int(found.content["number"]), found.digest
        if noted is not None and noted.number == verdict.last and noted.digest != found.digest:
            raise _Fault(f"{line.place}: has another digest than at an earlier look: the trail was written anew")
    if len(waiting) == 1 and not waiting[0].whole:  # the last writer was killed, or writes at this moment
        verdict.remarks.append(f"{waiting[0].place}: not a whole line; the next writer will say so in the chain")
    elif waiting:
        raise _Fault(_changed(waiting[0], key))
    return keyless


def _lines(folder: Path) -> Iterator[_Line]:
    for path in files(folder):
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                yield _Line(f"{path.name}:{number}", raw.removesuffix(b"\n"), raw.endswith(b"\n"))


def _is_next(found: Sealed, verdict: Verdict) -> bool:
    """Whether a line follows; the first one follows whatever was removed before it."""
    if verdict.lines:
        return found.follows(verdict.last, verdict.digest)
    return isinstance(found.content.get("number"), int) and "previous" in found.content


def _explain(found: Sealed, line: _Line, verdict: Verdict) -> None:
    """A line that is whole and yet does not follow: others are missing, or it was put there."""
    number = found.content.get("number")
    if isinstance(number, int) and number > verdict.last + 1:
        raise _Fault(f"{line.place}: lines {verdict.last + 1} to {number - 1} are missing before it")
    if isinstance(number, int) and number <= verdict.last:
        raise _Fault(f"{line.place}: line {number} stands here a second time, or was added")
    raise _Fault(f"{line.place}: does not follow the line before it, which was changed, or it was added")


def _check_remark(found: Sealed, line: _Line, waiting: list[_Line], verdict: Verdict, keyless: int) -> None:
    """What its writer found at the end of the trail, and whether it is still there."""
    remark = found.content.get("remark", {})
    rest = hashlib.sha256(b"\n".join(one.raw for one in waiting)).hexdigest() if waiting else None
    if waiting and remark.get("torn") != rest:
        raise _Fault(_changed(waiting[0]))
    if not waiting and "torn" in remark and verdict.lines:
        raise _Fault(f"{line.place}: the torn line before it is gone")
    if "added" in remark and verdict.lines:
        raise _Fault(f"{line.place}: something that was added stood before it and is gone")
    if waiting:
        verdict.remarks.append(f"{waiting[0].place}: a torn line, as a killed writer leaves it; the chain goes on")
    head = remark.get("head")
    introduced = head == "without the key" and keyless == verdict.lines
    if head is not None and not introduced:
        raise _Fault(f"{line.place}: when it was written, the head was not as it had been left ({head})")


def _begin(found: Sealed, line: _Line, verdict: Verdict) -> None:
    verdict.first = int(found.content["number"])
    when = found.content.get("EventIdentification", {}).get("EventDateTime", "?")
    verdict.began = f"line {verdict.first} of {when} ({line.place})"
    if verdict.first != 1:
        verdict.remarks.append(f"begins with {verdict.began}: older files have been removed")
    elif found.content["previous"] != NOTHING:
        raise _Fault(f"{line.place}: says that it is the first line, and names one before it")


def _changed(line: _Line, key: bytes | None = b"") -> str:
    if key is None and b'"hmac-sha256":' in line.raw[-90:]:
        return f"{line.place}: sealed with a key: set audit.seal_key"
    return f"{line.place}: changed, added, or not a line of this trail"


def _check_end(folder: Path, head: tuple[Head, bool] | None, noted: Noted | None, verdict: Verdict) -> None:
    """Whether the chain reaches as far as its head, and as at an earlier look."""
    if head is None:
        if verdict.lines or not folder.is_dir():
            raise _Fault(f"{folder}: {'its head is missing or was changed' if verdict.lines else 'there is no trail'}")
    else:
        known, _ = head
        if known.number > verdict.last:
            raise _Fault(f"lines {verdict.last + 1} to {known.number} are missing at the end: the trail was cut")
        if known.number == verdict.last and known.digest != verdict.digest:
            raise _Fault(f"line {known.number}, the last, is not the one that its head knows")
    if noted is not None and noted.number > verdict.last:
        raise _Fault(f"line {noted.number} was there at an earlier look; the trail ends with line {verdict.last}")


def _check_key(key: bytes | None, keyless: int, verdict: Verdict) -> None:
    if key is None or not keyless:
        return
    if keyless == verdict.lines:
        raise _Fault("no line was written with the key: start the node with it, or the trail was written anew")
    verdict.remarks.append(f"the first {keyless} line(s) were written before there was a key")
