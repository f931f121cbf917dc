"""Requests in few large writes are, byte for byte, those that pynetdicom sends."""

import pytest
import receiving
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF
from working import Peer

from dicom_node.deliver import burst, scu
from dicom_node.deliver.scu import StoreRequest
from dicom_node.nouns import AETitle, Destination, SOPInstanceUID


@pytest.mark.parametrize("longest", [0, 64, 16_382])
def test_the_pdus_are_those_of_pynetdicom(longest):
    request = C_STORE()
    request.MessageID, request.Priority = 7, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = receiving.CR, "1.2.3"
    request.DataSet = receiving.BytesIO(bytes(range(256)) * 300)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    theirs = []
    for part in message.encode_msg(5, longest):
        pdu = P_DATA_TF()
        pdu.from_primitive(part)
        theirs.append(pdu.encode())
    assert [*burst._pdus(message, 5, longest)] == theirs
    assert all(len(one) <= longest + 6 for one in theirs) or longest == 0


@pytest.mark.parametrize("longest", [0, 4096])
def test_what_arrives_is_what_lies_in_the_file(tmp_path, monkeypatch, longest):
    monkeypatch.setattr(AE, "maximum_pdu_size", longest)
    ds = receiving.radiograph(size=receiving.MB)
    path = tmp_path / "film.dcm"
    ds.save_as(path, enforce_file_format=True)
    writes = []
    write = burst._write
    monkeypatch.setattr(burst, "_write", lambda connection, data: (writes.append(len(data)), write(connection, data)))
    peer = Peer().start()
    try:
        assert peer._server.ae.maximum_pdu_size == longest
        there = Destination(name="pacs", ae_title=AETitle("PACS"), host="127.0.0.1", port=peer.port)
        request = StoreRequest(
            key="1", sop_instance_uid=SOPInstanceUID(ds.SOPInstanceUID), sop_class_uid=receiving.CR, path=path
        )
        outcomes = [*scu.store(there, [request, request], calling_ae_title="EXPLAIN", timeout=20)]
    finally:
        peer.stop()
    assert [one.status for one in outcomes] == [0, 0]
    expected = receiving.data_set_bytes(ds, ExplicitVRLittleEndian)
    assert [content for _, _, content in peer.received] == [expected, expected]
    assert sum(writes) > 2 * len(expected)
    assert len(writes) <= 2 * (2 if longest == 0 else 1 + -(-len(expected) // ((longest - 6) * burst.FRAGMENTS)))
