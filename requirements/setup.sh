#!/usr/bin/env bash
# Makes .venv with the locked packages and this project in it. Called by `make setup`, which repeats it when a lock or pyproject.toml changes.
# PYTHON=/path/to/python chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(uname -sm)" != "Linux x86_64" ]; then
  echo "set-up: the locked packages are for Linux x86-64 and this is $(uname -sm): install with 'pip install .' and give models by 'url'" >&2
  exit 2
fi

usable() { "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }

if ! usable .venv/bin/python; then
  chosen=
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if usable "$python"; then chosen=$python; break; fi
  done
  if [ -z "$chosen" ]; then
    echo "set-up: no Python 3.11 to 3.13 with venv found (looked for: ${PYTHON:-python3 python3.13 python3.12 python3.11}); install one, or name it with PYTHON=" >&2
    exit 2
  fi
  echo "set-up: making .venv with $("$chosen" --version)"
  "$chosen" -m venv --clear .venv
fi

pip=(.venv/bin/python -m pip --disable-pip-version-check)
install=(install --no-deps --no-input)
[ -t 1 ] || install+=(-q)
locks=$(cat requirements/base.txt requirements/dev.txt)
echo "set-up: installing $(grep -c == <<<"$locks") locked packages (about 700 MB to fetch, the first time)"

# torch first: where the CPU build is not on the configured index, PyTorch's own index has it.
torch=$(grep '^torch==' <<<"$locks")
if ! "${pip[@]}" "${install[@]}" "$torch"; then
  echo "set-up: $torch is not on the configured index; trying PyTorch's CPU index" >&2
  "${pip[@]}" "${install[@]}" --extra-index-url https://download.pytorch.org/whl/cpu "$torch"
fi
"${pip[@]}" "${install[@]}" -r requirements/base.txt -r requirements/dev.txt
"${pip[@]}" "${install[@]}" --no-build-isolation --config-settings editable_mode=compat -e .
touch .venv/.set-up
echo "set-up: done, the program is .venv/bin/agentmesh"
