"""The mean of weights that were trained one from the other; it holds up better on unknown logs than either end.

python -m training.average training/out/final training/out/third agentmesh/builtin/tiny
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main() -> None:
    """Reads the folders named first, writes the one named last."""
    *sources, target = map(Path, sys.argv[1:])
    weights = [load_file(source / "model.safetensors") for source in sources]
    mean = {name: (sum(each[name].float() for each in weights) / len(weights)).to(torch.bfloat16).contiguous() for name in weights[0]}
    shutil.copytree(sources[-1], target, dirs_exist_ok=True)
    save_file(mean, target / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
