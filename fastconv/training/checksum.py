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
from collections.abc import Iterable

import numpy as np

__all__ = ["DIGITS", "PIECE", "SHARE", "Sums", "of_array", "of_text", "sums"]

WORDS = 1024
ROW = 8 * WORDS  # bytes
PIECE = 128 * ROW  # bytes that are looked at together: they stay in a cache
SHARE = 16 * PIECE  # bytes of an array that one thread takes at a time
DIGITS = 16  # of a checksum as text, hexadecimal

Sums = tuple[np.ndarray, bytes]  # of the columns, and what is digested: the sums of the rows, or the bytes themselves


def sums(pieces: Iterable[np.ndarray], nbytes: int) -> Sums:
    """Of a share of an array of `nbytes`, in `pieces` of PIECE bytes (the array's last may have less), type uint8."""
    columns = np.zeros(WORDS if nbytes > ROW else 0, "<u8")
    digested = []
    for piece in pieces:
        if nbytes <= ROW:
            digested.append(piece.tobytes())
            continue
        if len(piece) % ROW:
            padded = np.zeros(len(piece) + -len(piece) % ROW, np.uint8)
            padded[: len(piece)] = piece
            piece = padded
        table = piece.view("<u8").reshape(-1, WORDS)
        columns += table.sum(axis=0, dtype="<u8")
        digested.append(table.sum(axis=1, dtype="<u8").tobytes())
    return columns, b"".join(digested)


def of_array(dtype: str, shape: tuple[int, ...], shares: Iterable[Sums]) -> str:
    """The checksum of an array, from the sums of its shares in their order, as DIGITS hexadecimal digits."""
    digest = hashlib.blake2b(f"{dtype} {shape}".encode(), digest_size=DIGITS // 2)
    total = np.zeros((), "<u8")
    for columns, digested in shares:
        digest.update(digested)
        total = total + columns
    digest.update(total.data if total.ndim else b"")
    return digest.hexdigest()


def of_text(text: str) -> str:
    """The checksum of a text."""
    return hashlib.blake2b(text.encode(), digest_size=DIGITS // 2).hexdigest()
