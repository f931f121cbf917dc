"""A part is on its way to the disk while more of it comes, and still in memory when its header is read."""

import os

from pydicom.uid import ExplicitVRLittleEndian
from receiving import CR, MB, data_set_bytes, radiograph

from dicom_node.receive import part_file
from dicom_node.storage.spool import Spool


def test_the_disk_is_asked_to_begin_with_every_piece_once(tmp_path, monkeypatch):
    asked, advise = [], os.posix_fadvise

    def noted(descriptor, start, length, advice):
        assert os.fstat(descriptor).st_size >= start + length, "what is asked for has left our buffer"
        asked.append((start, start + length, advice))
        advise(descriptor, start, length, advice)

    monkeypatch.setattr(part_file.os, "posix_fadvise", noted)
    body = data_set_bytes(radiograph(1, size=3 * MB), ExplicitVRLittleEndian)
    part = part_file.PartFile(Spool(tmp_path, 0), CR, "1.2.3", ExplicitVRLittleEndian)
    for place in range(0, len(body), 100_000):
        part.write(body[place : place + 100_000])
    received = part.finish()
    assert received.path.read_bytes().endswith(body)
    assert [start for start, _, _ in asked[1:]] == [end for _, end, _ in asked[:-1]], "without gaps"
    assert asked[0][0] == 0
    assert asked[-1][1] >= 2 * MB
    assert {advice for _, _, advice in asked} == {os.POSIX_FADV_DONTNEED}
