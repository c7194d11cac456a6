r"""The file of a record: one line of compact JSON in UTF-8 that ends in its checksum.

    {"schema_version":1, …, "run":{…},"checksum":"<sha256>"}

The checksum is that of the same line without its last member, so that a shell can verify it:

    sed 's/,"checksum":"[0-9a-f]*"}$/}/' page-0001.json | tr -d '\n' | sha256sum

It covers every byte: a record that was cut short or altered anywhere is not trusted.
"""

import hashlib
from typing import TypeVar

from docr.output.record import DocumentRecord, PageRecord

_CHECKSUM_KEY = b',"checksum":"'
_END = b'"}\n'

R = TypeVar("R", PageRecord, DocumentRecord)


def sealed(record: R) -> R:
    """The record with its checksum."""
    return record.model_copy(update={"checksum": _sha256(_body(record))})


def to_line(record: PageRecord | DocumentRecord) -> bytes:
    """The content of a record's file; the checksum is computed, whatever the record says."""
    body = _body(record)
    return body[:-1] + _CHECKSUM_KEY + _sha256(body).encode() + _END


def verified(line: bytes) -> tuple[bytes, str] | None:
    """The JSON of a record's file without its checksum, and that; None if it does not hold."""
    head, key, rest = line.rpartition(_CHECKSUM_KEY)
    body = head + b"}"
    checksum = _sha256(body)
    return (body, checksum) if key and rest == checksum.encode() + _END else None


def _body(record: PageRecord | DocumentRecord) -> bytes:
    return record.model_dump_json(exclude={"checksum"}).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
