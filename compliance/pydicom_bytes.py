"""A pydicom dataset as the bytes of a payload: for what pydicom made or changed, never for what was received."""

from __future__ import annotations

from io import BytesIO

from pydicom import Dataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset

from crypto.errors import RefusedContent


def explicit_bytes(dataset: Dataset) -> bytes:
    """The dataset in Explicit VR Little Endian, without preamble and file meta. Raises RefusedContent where it cannot be written."""
    buffer = BytesIO()
    stream = DicomIO(buffer)
    stream.is_little_endian, stream.is_implicit_VR = True, False
    try:
        write_dataset(stream, dataset)
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError):
        raise RefusedContent("DATASET_NOT_WRITABLE", "the dataset cannot be encoded") from None
    return buffer.getvalue()
