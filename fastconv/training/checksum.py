"""Checksums of arrays at nearly the speed of memory, for files that are many times larger than what changes in them.

The bytes of an array, with zeros behind them, are a table of 64-bit words, WORDS in a row. The words of every row and
of every column are summed modulo 2**64; the checksum is a BLAKE2b digest of all these sums, of the type and the shape.
Of an array that is no longer than a row it is the digest of the bytes themselves.

Whatever happens to one word or to two, some row or column has only one of them and its sum is another one: all flips of
one or two bits are seen, and two elements that changed places. Of other damage 2**-64 goes unseen, but for what leaves
all sums as they were: the corners of a rectangle in the table changed by the same amount, or rows whose sums are equal
in another order. (A CRC-32 of zlib's takes four times as long, a cryptographic digest of all bytes ten times.)
"""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["DIGITS", "PIECE", "Checksum", "of_text"]

WORDS = 1024
ROW = 8 * WORDS  # bytes
PIECE = 32 * ROW  # bytes that are looked at together: they stay in the cache
DIGITS = 16  # of a checksum as text, hexadecimal


class Checksum:
    """The checksum of an array that comes in pieces: each but the last a multiple of PIECE bytes."""

    def __init__(self, dtype: str, shape: tuple[int, ...], nbytes: int) -> None:
        self._digest = hashlib.blake2b(f"{dtype} {shape}".encode(), digest_size=DIGITS // 2)
        self._columns = np.zeros(WORDS if nbytes > ROW else 0, "<u8")

    def add(self, data: np.ndarray) -> None:
        """The next bytes, a contiguous uint8 array."""
        if not len(self._columns):
            self._digest.update(data.data)
            return
        for start in range(0, len(data), PIECE):
            self._add_rows(data[start : start + PIECE])

    def _add_rows(self, data: np.ndarray) -> None:
        if len(data) % ROW:
            padded = np.zeros(len(data) + -len(data) % ROW, np.uint8)
            padded[: len(data)] = data
            data = padded
        table = data.view("<u8").reshape(-1, WORDS)
        self._columns += table.sum(axis=0, dtype="<u8")
        self._digest.update(table.sum(axis=1, dtype="<u8").data)

    def text(self) -> str:
        """The checksum of all that was added, as DIGITS hexadecimal digits."""
        digest = self._digest.copy()
        digest.update(self._columns.data)
        return digest.hexdigest()


def of_text(text: str) -> str:
    """The checksum of a text."""
    return hashlib.blake2b(text.encode(), digest_size=DIGITS // 2).hexdigest()
