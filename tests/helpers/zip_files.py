"""Zip files with odd fields."""

from __future__ import annotations


def with_far_header(data: bytes) -> bytes:
    """Give the first member a ZIP64 extra that says that its header is beyond any file."""
    place = data.index(b"PK\x01\x02")
    length = int.from_bytes(data[place + 28 : place + 30], "little")
    name = data[place + 46 : place + 46 + length]
    entry = bytearray(data[place : place + 46])
    entry[30:32], entry[42:46] = (12).to_bytes(2, "little"), b"\xff" * 4
    extra = b"\x01\x00\x08\x00" + (2**63 + 5).to_bytes(8, "little")
    changed = bytearray(data[:place] + entry + name + extra + data[place + 46 + length :])
    end = changed.rindex(b"PK\x05\x06")
    size = int.from_bytes(changed[end + 12 : end + 16], "little") + len(extra)
    changed[end + 12 : end + 16] = size.to_bytes(4, "little")
    return bytes(changed)
