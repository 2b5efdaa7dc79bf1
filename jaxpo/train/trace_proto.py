"""The names of compiled operations inside a trace, which is a protocol buffer that no package of ours reads.

Of the format only what is needed: fields by number (https://protobuf.dev/programming-guides/encoding), of the messages
`XSpace` (tsl/profiler/protobuf/xplane.proto) and `HloProto` (xla/service/hlo.proto).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

METADATA_PLANE = "/host:metadata"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Instruction:
    """An operation of a compiled program.

    Attributes:
      opcode: "fusion", "dot", "while", ...
      name: what it computes, as JAX calls it: `jit(step)/transpose(jvp())/dot_general`; "" = unknown.
      place: the line of Python that asked for it, `/path/file.py:12`; "" = unknown.
    """

    opcode: str
    name: str
    place: str


def instructions(space: bytes) -> dict[tuple[str, str], Instruction]:
    """(module, instruction) -> what it is, of every program in a serialised `XSpace`."""
    found: dict[tuple[str, str], Instruction] = {}
    for plane in _all(space, 1):
        if _text(plane, 2) != METADATA_PLANE:
            continue
        for entry in _all(plane, 4):  # event_metadata, a map: id -> XEventMetadata
            for metadata in _all(entry, 2):
                for stat in _all(metadata, 5):
                    for program in _all(stat, 6):  # bytes_value: HloProto
                        for module in _all(program, 1):
                            found |= _of_module(module)
    return found


def _of_module(module: bytes) -> dict[tuple[str, str], Instruction]:
    of_module, places, found = _text(module, 1), _places(module), {}
    for computation in _all(module, 3):
        for instruction in _all(computation, 2):
            metadata = next(_all(instruction, 7), b"")
            frame = _number(metadata, 15)
            place = places[frame - 1] if 0 < frame <= len(places) else ""
            found[of_module, _text(instruction, 1)] = Instruction(_text(instruction, 2), _text(metadata, 2), place)
    return found


def _places(module: bytes) -> list[str]:
    """The innermost line of each of a module's stack frames; ids count from 1."""
    index = next(_all(module, 17), b"")
    files = [name.decode("utf-8", errors="replace") for name in _all(index, 1)]
    lines = [(_number(location, 1), _number(location, 3)) for location in _all(index, 3)]
    places = [f"{files[file - 1]}:{line}" if 0 < file <= len(files) else "" for file, line in lines]
    frames = [_number(frame, 1) for frame in _all(index, 4)]
    return [places[at - 1] if 0 < at <= len(places) else "" for at in frames]


def _text(message: bytes, number: int) -> str:
    return next(_all(message, number), b"").decode("utf-8", errors="replace")


def _all(message: bytes, number: int) -> Iterator[bytes]:
    """Every value of a field that holds bytes, text or a message."""
    return (value for key, value in _fields(message) if key == number and isinstance(value, bytes))


def _number(message: bytes, number: int) -> int:
    """The value of a field that holds an integer; 0 where it is absent, as the format has it."""
    return next((value for key, value in _fields(message) if key == number and isinstance(value, int)), 0)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes | None]]:
    """Number and value of every field; None of numbers of fixed width, which nothing here asks for."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
        elif kind == _BYTES:
            size, at = _varint(message, at)
            yield key >> 3, message[at : at + size]
            at += size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
            yield key >> 3, None
        else:
            raise ValueError(f"a trace holds a field of the unknown kind {kind}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
