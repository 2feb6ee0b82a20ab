"""What vLLM's worker imports before it loads a model, by the engine's own option `worker_extension_cls`.

vLLM 0.32 computes attention in AMX tiles where the processor has them, and Linux kills a process that touches a tile
before it asked for them. oneDNN asks when it first multiplies in tiles, which a warm-up would do; but an eager engine
with a cache of given size skips the warm-up, and a first prompt of a few tokens then ends the engine. So ask.
"""

from __future__ import annotations

import torch

if torch.cpu._is_amx_tile_supported():  # noqa: SLF001  torch has no public name for it
    torch.cpu._init_amx()  # noqa: SLF001


class WorkerExtension:
    """Adds nothing to the worker: importing this module is the point."""
