"""What a compiled program reads and writes, from its text."""

import math
import re

_BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "s8": 1, "u8": 1, "pred": 1}
_ARRAY = re.compile(rf"\b({'|'.join(_BYTES)})\[([\d,]*)\]")
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "reshape"}


def _bytes(types):
    return sum(_BYTES[kind] * math.prod(int(n) for n in sizes.split(",") if n) for kind, sizes in _ARRAY.findall(types))


def traffic(text):
    """Bytes read and written by each operation of the entry computation that touches memory, by its name."""
    entry = text[text.index("\nENTRY") :].split("\n}")[0]
    size, found = {}, {}
    for name, types, kind, operands in re.findall(r"\n\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z-]+)\(([^)]*)\)", entry):
        size[name] = _bytes(types)
        if kind not in _FREE:
            found[name] = size[name] + sum(size.get(o, 0) for o in re.findall(r"%([\w.-]+)", operands))
    return found
