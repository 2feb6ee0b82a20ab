"""Size: amounts of memory as people write them: `512MiB`, `1.5 GB`, a bare number of bytes."""

from __future__ import annotations

import re

_UNITS = {
    "": 1, "b": 1, "k": 1024, "kb": 1000, "kib": 1024, "m": 1024**2, "mb": 1000**2, "mib": 1024**2,
    "g": 1024**3, "gb": 1000**3, "gib": 1024**3, "t": 1024**4, "tb": 1000**4, "tib": 1024**4,
}  # fmt: skip


def size_in_bytes(text: str) -> int:
    """Bytes; ValueError for what is no size."""
    found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([A-Za-z]{0,3})\s*", text)
    unit = _UNITS.get(found[2].lower()) if found is not None else None
    if found is None or unit is None:
        raise ValueError(f"{text!r} is no size: write 512MiB or 1GiB")
    return int(float(found[1]) * unit)
