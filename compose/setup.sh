#!/usr/bin/env bash
# Runs once, before everything else of compose.yaml: the packages into the volume `venv`, a password into the volume `secrets`.
# SECRETS=folder puts the password elsewhere; with the argument `password` nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
secrets=${SECRETS:-/secrets}

if [ "${1:-all}" != password ]; then
  if ! command -v make >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends make >/dev/null
  fi
  make setup
fi

umask 077
if [ ! -s "$secrets/password" ]; then
  od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$secrets/password"
fi
# How libpq, and so the servers, find it; the same ones whenever the volume is kept.
printf '127.0.0.1:5433:agentmesh:agentmesh:%s\n' "$(cat "$secrets/password")" >"$secrets/pgpass"
