# ruff: noqa: E501 - lines of logs stay as tools print them
"""The shipped weights, asked about logs that everybody has seen. The constraint of the schema is applied by training.scoring."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from agentmesh.builtin.triage import cut, resolve
from training import dataset

TINY = Path(dataset.__file__).parent.parent / "agentmesh" / "builtin" / "tiny"
pytestmark = pytest.mark.real

TYPE_ERROR = """Traceback (most recent call last):
  File "/home/lea/parcels/app/parcels.py", line 31, in <module>
    print(total([{"kg": 2}]))
  File "/home/lea/parcels/app/parcels.py", line 12, in total
    return sum(rate(p) * 3 for p in parcels)
  File "/home/lea/parcels/app/parcels.py", line 8, in rate
    return RATES.get(parcel["kg"]) * 3
TypeError: unsupported operand type(s) for *: 'NoneType' and 'int'
"""
PYTEST = """============================= test session starts ==============================
platform linux -- Python 3.11.7, pytest-8.3.2, pluggy-1.5.0
rootdir: /home/lea/parcels
collected 3 items

tests/test_rates.py .F.                                                  [100%]

=================================== FAILURES ===================================
______________________________ test_heavy_parcel _______________________________

    def test_heavy_parcel():
>       assert rate({"kg": 20}) == 12
E       assert 14 == 12
E        +  where 14 = rate({'kg': 20})

tests/test_rates.py:9: AssertionError
=========================== short test summary info ============================
FAILED tests/test_rates.py::test_heavy_parcel - assert 14 == 12
========================= 1 failed, 2 passed in 0.02s ==========================
"""
CASES: list[tuple[str, str, str | None, int | None]] = [
    (TYPE_ERROR, "type", "/home/lea/parcels/app/parcels.py", 8),
    (PYTEST, "assertion", "tests/test_rates.py", 9),
    ('Traceback (most recent call last):\n  File "/srv/api/run.py", line 3, in <module>\n    import requests\nModuleNotFoundError: No module named \'requests\'\n', "dependency", "/srv/api/run.py", 3),
    ('Traceback (most recent call last):\n  File "/srv/api/app/run.py", line 3, in <module>\n    from app.models import User\nModuleNotFoundError: No module named \'app.models\'\n', "import", "/srv/api/app/run.py", 3),
    ('gcc -c src/main.c -o main.o\nsrc/main.c:4:10: fatal error: parcel/rate.h: No such file or directory\n    4 | #include "parcel/rate.h"\n      |          ^~~~~~~~~~~~~~~\ncompilation terminated.\nmake: *** [Makefile:6: main.o] Error 1\n', "import", "src/main.c", 4),
    ("npm ERR! code E404\nnpm ERR! 404 Not Found - GET https://registry.example.com/@lea%2fparcels - Not found\nnpm ERR! 404  '@lea/parcels@^2.0.0' is not in this registry.\n", "dependency", None, None),
    ("npm error code ERESOLVE\nnpm error ERESOLVE unable to resolve dependency tree\nnpm error Found: react@19.0.0\nnpm error Could not resolve dependency:\nnpm error peer react@\"^18.0.0\" from parcels-ui@1.0.0\n", "dependency", None, None),
    ("node:net:1611\n    throw err\nError: connect ECONNREFUSED 127.0.0.1:5432\n    at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1611:16) {\n  errno: -111,\n  code: 'ECONNREFUSED'\n}\n", "network", None, None),
    ("./run_tests\n1..9\nok 1 - opens\nmake: *** [Makefile:12: check] Segmentation fault (core dumped)\n", "crash", None, None),
    ("epoch 3 of 9\nbash: line 1:   731 Killed                  python3 train.py\nmake: *** [Makefile:4: train] Error 137\n", "memory", None, None),
]  # fmt: skip


@lru_cache(maxsize=1)
def _model() -> tuple[Any, Any]:
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    return model, Tokenizer.from_file(str(TINY / "tokenizer.json"))


@pytest.mark.parametrize(("log", "cause", "file", "line"), CASES)
def test_logs_that_everybody_has_seen(log: str, cause: str, file: str | None, line: int | None) -> None:
    """Rules and model together name cause and place."""
    from training.scoring import choose

    found = cut(log)
    sample = dataset.Sample(dataset.render(found["text"]), {}, found, {}, log)
    [choice] = choose(*_model(), [sample])
    said = resolve(choice, found["table"])
    assert (said["cause"], said["file"], said["line"]) == (cause, file, line)
    assert all(quote in log for quote in said["quotes"])
