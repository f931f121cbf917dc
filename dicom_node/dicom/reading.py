"""Data sets out of files, within bounds: whole ones, and headers without the pixels.

Files may be cut off in transfer, or be small and unpack to any size.
"""

import io
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicom_node.dicom.structure import MOST_LOOKED_AT, check_structure, inflated, not_read, start_of
from dicom_node.errors import DatasetUnreadable
from dicom_node.watch.logs import without_warnings

MOST_INFLATED = 256 << 20
"""Bytes that a deflated data set may unpack to."""

_KEPT_IN_MEMORY = 1 << 20
"""Bytes of an element's value; larger ones are read where they are asked for."""
_FIRST_PIXEL_TAG = Tag(0x7FE0, 0x0001)


def find(paths: Iterable[Path]) -> Iterator[Path]:
    """The files among `paths` and in the folders among them, sorted."""
    for path in paths:
        if path.is_dir():
            yield from sorted(one for one in path.rglob("*") if one.is_file())
        else:
            yield path


def read(path: Path) -> Dataset:
    """The data set in the file at `path`; if its pixel data break off, the header with empty Pixel Data.

    Raises:
        DatasetUnreadable: the file is missing, is no DICOM file, or holds no data set.
        OutOfResources: this host cannot read it now: permissions, descriptors, a disk or a share that fails.
    """
    with without_warnings():
        if not inflates_within(path, MOST_INFLATED):
            raise DatasetUnreadable("its deflated data set unpacks to more than any radiograph holds")
        if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            check_structure(path, MOST_INFLATED)
        try:
            ds = _whole(path)
            if not ds:  # pydicom drops every element when encapsulated pixel data lack their end
                ds = _whole(path, stop_before_pixels=True)
                ds.add_new("PixelData", "OB", b"")
        except MemoryError:  # not for what the file says it holds: _Reader
            raise
        except Exception as error:  # bytes that are no data set: pydicom raises many kinds
            raise not_read(error, "the file cannot be read as DICOM") from error
    if "SOPInstanceUID" not in ds:
        raise DatasetUnreadable("the file holds no data set")
    return ds


class _Reader(io.BufferedReader):
    """A file's reader that makes room for no more bytes than the file has, however many it is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _KEPT_IN_MEMORY:
            size = min(size, os.fstat(self.fileno()).st_size)
        return super().read(size)


def _whole(path: Path, *, stop_before_pixels: bool = False) -> Dataset:
    """A file by pydicom, which asks for as many bytes as an element says it has."""
    with _Reader(path.open("rb", buffering=0)) as file:
        return dcmread(file, stop_before_pixels=stop_before_pixels)


def read_header(path: Path, keywords: Sequence[str] | None = None) -> Dataset:
    """The data set in a file up to the pixels, however the rest of the file looks.

    Of a deflated data set only the first megabytes are inflated: a small file may unpack to any size.

    Args:
        path: a file in the DICOM File Format.
        keywords: read only these elements and skip all others unread; None for all.

    Raises:
        DatasetUnreadable: there is no data set to read; the message quotes nothing of it.
        OutOfResources: as of `read`.
    """
    try:
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return _read_deflated_header(path, meta, keywords)
        tags = list(keywords) if keywords is not None else None
        return dcmread(path, stop_before_pixels=True, specific_tags=tags, defer_size=_KEPT_IN_MEMORY)
    except Exception as error:
        raise not_read(error, "Data set cannot be read") from error


def start_of_data_set(path: Path) -> int:
    """Where in a file its data set begins, in bytes.

    Raises:
        FileNotFoundError: there is no file.
        DatasetUnreadable: its file meta information cannot be read.
        OutOfResources: as of `read`.
    """
    try:
        return start_of(read_file_meta_info(path))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise not_read(error, "the file cannot be read as DICOM") from error


def inflates_within(path: Path, limit: int) -> bool:
    """Whether a file's data set is not deflated, or unpacks to at most `limit` bytes; nothing is kept.

    Raises:
        DatasetUnreadable: the file meta information or the compressed bytes cannot be read.
        OutOfResources: as of `read`.
    """
    try:
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return True
        inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        with path.open("rb") as file:
            file.seek(start_of(meta))
            waiting = file.read(MOST_LOOKED_AT)
            while waiting and total <= limit:
                total += len(inflater.decompress(waiting, MOST_LOOKED_AT))
                waiting = inflater.unconsumed_tail or file.read(MOST_LOOKED_AT)
    except Exception as error:
        raise not_read(error, "the file cannot be read as DICOM") from error
    return total <= limit


def _read_deflated_header(path: Path, meta: FileMetaDataset, keywords: Sequence[str] | None) -> Dataset:
    header = read_dataset(
        io.BytesIO(inflated(path, meta, MOST_LOOKED_AT)),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag >= _FIRST_PIXEL_TAG,
        specific_tags=[Tag(keyword) for keyword in keywords] if keywords is not None else None,
    )
    header.file_meta = meta
    return header
