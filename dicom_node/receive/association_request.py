"""An A-ASSOCIATE-RQ as peers send it -> as pynetdicom can read it: nobody is aborted for a trifle (PS3.8 9.3.2).

AE titles padded with NUL or blanks       padded with blanks; then compared, and rejected with a reason if unknown
AE titles that are not ASCII, or blank    "?" for what is no character of an AE title; rejected with a reason
user information items that nobody knows  ignored (PS3.8 9.3.1)
no Maximum Length item (PS3.8 D.1)        no limit
"""

import struct

from pynetdicom.association import Association as Acceptor

ASSOCIATE_RQ = 0x01
_TITLES = (slice(10, 26), slice(26, 42))
"""Called and calling AE title in the PDU (table 9-11)."""
_ITEMS_START = 74
_USER_INFORMATION, _MAXIMUM_LENGTH = 0x50, 0x51
_KNOWN = frozenset(range(0x51, 0x5A))
"""Maximum length, implementation, asynchronous operations, roles, extended negotiation, user identity (PS3.7 D.3.3)."""
_ITEM = struct.Struct(">BxH")
_NO_LIMIT = struct.pack(">BxHL", _MAXIMUM_LENGTH, 4, 0)
_PDU = struct.Struct(">BxL")


def tidied(pdu: bytes) -> bytes:
    """The same request in a form that can be read; any other PDU, and what is damaged, unchanged."""
    if len(pdu) < _ITEMS_START or pdu[0] != ASSOCIATE_RQ:
        return pdu
    head = bytearray(pdu[:_ITEMS_START])
    for place in _TITLES:
        head[place] = _title(bytes(head[place]))
    items = _items(pdu[_ITEMS_START:])
    if items is None:
        return bytes(head) + pdu[_ITEMS_START:]
    body = b"".join(
        _user_information(value) if kind == _USER_INFORMATION else _made(kind, value) for kind, value in items
    )
    head[: _PDU.size] = _PDU.pack(ASSOCIATE_RQ, len(head) - _PDU.size + len(body))
    return bytes(head) + body


def _title(raw: bytes) -> bytes:
    text = bytes(byte if 0x20 <= byte < 0x7F and byte != 0x5C else 0x3F for byte in raw.strip(b"\0 "))  # noqa: PLR2004
    return (text or b"?").ljust(16)


def _user_information(value: bytes) -> bytes:
    items = _items(value)
    if items is None:
        return _made(_USER_INFORMATION, value)
    kept = [(kind, part) for kind, part in items if kind in _KNOWN]
    body = b"".join(_made(kind, part) for kind, part in kept)
    if all(kind != _MAXIMUM_LENGTH for kind, _ in kept):
        body = _NO_LIMIT + body
    return _made(_USER_INFORMATION, body)


def _items(data: bytes) -> list[tuple[int, bytes]] | None:
    """Type and value of each item; None where their lengths do not add up."""
    found, place = [], 0
    while place < len(data):
        if place + _ITEM.size > len(data):
            return None
        kind, length = _ITEM.unpack_from(data, place)
        place += _ITEM.size
        if place + length > len(data):
            return None
        found.append((kind, data[place : place + length]))
        place += length
    return found


def _made(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def titles_of(acceptor: Acceptor) -> dict[str, str]:
    """Who calls whom, for the log and the ledger."""
    requested = acceptor.requestor.primitive
    return {
        "calling": legible(getattr(requested, "calling_ae_title", "")),
        "called": legible(getattr(requested, "called_ae_title", "")),
        "peer": str(acceptor.requestor.address),
    }


def legible(title: str | None) -> str:
    """An AE title as it may stand in a line of a log: whoever calls chooses its bytes."""
    text = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in str(title or ""))
    return text.strip()[:16]
