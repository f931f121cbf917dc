"""Peers that speak in bytes: what an association is made of, for those who break it."""

import socket
import struct
import time
from contextlib import contextmanager

from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from receiving import CR, STUDY, radiograph, wait_until


@contextmanager
def raw(node, source="127.0.0.1"):
    """A connection, without a word."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=10, source_address=(source, 0)) as connection:
        yield connection


def closed_after(connection, seconds):
    """How long until the node closed the connection, whatever it said before."""
    connection.settimeout(seconds)
    start = time.monotonic()
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        raise AssertionError(f"still open after {seconds} s") from None
    return time.monotonic() - start


def associate_request(entity, calling="MODALITY"):
    """The bytes of a good A-ASSOCIATE-RQ for the contexts of an AE."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, "EXPLAIN"
    contexts = entity.requested_contexts
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = contexts
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received, implementation.implementation_class_uid = 16382, "1.2.3"
    primitive.user_information = [length, implementation]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return pdu.encode()


@contextmanager
def associated(node, source="127.0.0.1", calling="MODALITY"):
    """A raw connection with an accepted association."""
    with raw(node, source) as connection:
        connection.sendall(associate_request(node.entity(), calling))
        kind, length = struct.unpack(">BxL", connection.recv(6))
        assert kind == 0x02
        while length:
            length -= len(connection.recv(length))
        yield connection


def p_data(payload, header, context=1):
    """A P-DATA-TF of one presentation data value (PS3.8 9.3.5)."""
    body = struct.pack(">LBB", len(payload) + 2, context, header) + payload
    return struct.pack(">BxL", 0x04, len(body)) + body


def store_command():
    """The command set of a C-STORE-RQ."""
    command = Dataset()
    command.AffectedSOPClassUID, command.CommandField, command.MessageID = CR, 0x0001, 1
    command.Priority, command.CommandDataSetType = 2, 0x0000
    command.AffectedSOPInstanceUID = f"{STUDY}.1.50"
    command.CommandGroupLength = len(encode(command, True, True))
    return encode(command, True, True)


def still_serves(node):
    """A good sender is answered as it should be.

    A node that waits a second for its peers ends one which a busy machine keeps waiting longer: that one has no answer,
    and sends again.
    """

    def answer():
        try:
            return node.store(radiograph(77))[0]
        except RuntimeError:  # pynetdicom's, of an association that is over
            return None

    assert wait_until(answer, 30).Status == 0x0000
