#!/usr/bin/env bash
# The JavaScript clients against fakes and against the served example mesh. Called by `make e2e`, from the root of the project.
set -euo pipefail
npm ci --prefix tests/e2e --no-audit --no-fund --silent

address() { .venv/bin/python -c 'import json; print(json.load(open(".agentmesh/server.json"))["url"])' 2>/dev/null; }

if ! url=$(address) || ! curl -sf "$url/healthz" >/dev/null; then
  log=$(mktemp)
  .venv/bin/agentmesh serve --port 0 2>"$log" &
  server=$!
  trap 'kill -TERM $server 2>/dev/null || true; wait $server || true; rm -f "$log"' EXIT
  for _ in $(seq 300); do
    if url=$(address) && curl -sf "$url/readyz" >/dev/null; then break; fi
    if ! kill -0 $server 2>/dev/null; then cat "$log" >&2; exit 1; fi
    sleep 1
  done
fi
curl -sf "$url/readyz" >/dev/null || { echo "e2e: the mesh at $url is not ready: $(curl -s "$url/readyz")" >&2; exit 1; }
AGENTMESH_E2E_URL=$url .venv/bin/python -m pytest -q -m clients tests
