"""Requests on their way in few large writes.

pynetdicom hands each fragment of a message (16 KB, as most peers ask for) to another thread, which takes it through its
state machine and makes one system call of it. While a requestor sends a message it is in one state (Sta6 of PS3.8 9.2,
action DT-1), so the fragments can be put behind each other and written at once: the same bytes, at half the time.
"""

import socket
import ssl
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE

FRAGMENTS: Final = 16
"""In one write."""
_P_DATA_TF: Final = 0x04


def in_bursts(association: Association) -> None:
    """Send the C-STORE requests of an established association so.

    One over TLS is left as it is: OpenSSL takes no reading beside its writing.
    """
    dul, dimse = association.dul, association.dimse
    one_by_one: Any = dimse.send_msg
    connection = None if dul.socket is None else dul.socket.socket
    if connection is None or isinstance(connection, ssl.SSLSocket):
        return

    def send(primitive: Any, context_id: int) -> None:
        if not isinstance(primitive, C_STORE) or primitive.MessageIDBeingRespondedTo is not None:
            one_by_one(primitive, context_id)
            return
        message = C_STORE_RQ()
        message.primitive_to_message(primitive)
        written = _pdus(message, context_id, dimse.maximum_pdu_size)
        try:
            while burst := b"".join(islice(written, FRAGMENTS)):
                _write(connection, burst)
        except OSError:  # it is gone
            dul.event_queue.put("Evt17")

    dimse.send_msg = send  # type: ignore[method-assign]


def _write(connection: socket.socket, burst: bytes) -> None:
    """All of it; the connection's limit is for each step, as long as it moves."""
    rest = memoryview(burst)
    while rest:
        rest = rest[connection.send(rest) :]


def _pdus(message: C_STORE_RQ, context_id: int, longest: int) -> Iterator[bytes]:
    """The P-DATA-TF PDUs of a message (PS3.8 9.3.5), each with one PDV."""
    for part in message.encode_msg(context_id, longest):
        for context, value in part.presentation_data_value_list:
            yield struct.pack(">BxIIB", _P_DATA_TF, len(value) + 5, len(value) + 1, context) + value
