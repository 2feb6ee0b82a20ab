"""`healthy.py URL`: status 0 when the address answers 200. The images have no curl."""

# ruff: noqa: INP001
from __future__ import annotations

import sys
import urllib.request

with urllib.request.urlopen(sys.argv[1], timeout=4) as answer:  # noqa: S310  an address of compose.yaml
    sys.exit(0 if answer.status == 200 else 1)
