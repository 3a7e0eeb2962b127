"""What a protobuf file would take in memory, told from its bytes before they are parsed.

A message of two bytes becomes an object of a hundred, a packed integer of one byte one of eight: what is not told apart
here could fill memory from a small file. Source: https://protobuf.dev/programming-guides/encoding, onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["need_modest"]

MESSAGE, TEXT, NUMBER = 120, 32, 8  # bytes in memory of a message, a text, a packed integer
FREE = 24 << 20  # bytes beyond twice the file that are let pass
DEEPEST = 100

INSIDE: dict[str, dict[int, str]] = {  # which fields of a message are messages, and of which kind
    "model": {7: "graph", 20: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 15: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 14: "value", 15: "value"},
    "value": {2: "value", 1: "value"},
    "tensor": {},
}
TEXTS = {"node": (1, 2, 3, 4, 6, 7), "value": (), "tensor": (8, 12), "attribute": (1, 4, 9, 13)}
PACKED = {"tensor": (1, 5, 7, 11), "attribute": (8,)}
PLAIN = {"tensor": (4, 9, 10), "attribute": (7,)}


def need_modest(data: bytes) -> None:
    """ValueError for an ONNX file whose parts would take far more memory than the file has bytes."""
    budget = 2 * len(data) + FREE
    for cost in _costs(memoryview(data), "model", 0):
        budget -= cost
        if budget < 0:
            raise ValueError("its parts, small ones by the thousands, would take far more memory than the file has")


def _costs(data: memoryview, kind: str, depth: int) -> Iterator[int]:
    """What each part of a message takes; ends quietly where the bytes are no message, which the parser tells."""
    inside, texts = INSIDE[kind], TEXTS.get(kind, ())
    packed, plain = PACKED.get(kind, ()), PLAIN.get(kind, ())
    at, end = 0, len(data)
    while at < end and depth < DEEPEST:
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            _, at = _varint(data, at)
            yield NUMBER
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
            yield NUMBER
        elif wire == 2:
            length, at = _varint(data, at)
            if at + length > end:
                return
            if field in inside:
                yield MESSAGE
                yield from _costs(data[at : at + length], inside[field], depth + 1)
            elif field in packed:
                yield NUMBER * length
            elif field in plain:
                yield length
            else:
                yield length + (TEXT if field in texts else MESSAGE)
            at += length
        else:
            return


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends; past the end where it does not."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    return 0, len(data) + 1
