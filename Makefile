# One command for each thing. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup serve test test-fast test-real faults check e2e e2e-frameworks conformance-mcp conformance-a2a bench bench-workflows bench-mcp bench-a2a train eval lock clean
py := .venv/bin/python
HOST ?= 127.0.0.1
PORT ?= 8080
BENCHMARKS ?= start model_stack journal engine_steps mcp_overhead runs_list waiting two_workers

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.set-up: pyproject.toml requirements/base.txt requirements/dev.txt requirements/setup.sh
	@bash requirements/setup.sh

setup: .venv/.set-up ## Make .venv with the locked packages (every other target does it when needed)

serve: .venv/.set-up ## Serve the example mesh of this folder on http://127.0.0.1:8080
	@exec .venv/bin/agentmesh serve --host $(HOST) --port $(PORT)

test: test-fast test-real ## Run all tests, those on the real stack too

test-fast: .venv/.set-up ## Run the tests that need neither Ray nor vLLM
	$(py) -m pytest -q -n auto --dist loadfile -m "not real and not clients and not faults and not frameworks"

test-real: .venv/.set-up ## Run the tests on the real stack: Ray, vLLM, sockets
	$(py) -m pytest -q -m "real and not clients and not frameworks"

faults: .venv/.set-up ## Break a served mesh and its databases on purpose, and simulate a minute of schedules (a quarter of an hour)
	$(py) -m tests.simulation --seconds 60
	$(py) -m tests.faults

check: .venv/.set-up ## Lint (ruff) and strict types (mypy)
	$(py) -m ruff check .
	$(py) -m ruff format --check agentmesh tests benchmarks requirements
	$(py) -m mypy

e2e: .venv/.set-up ## Run the JavaScript MCP and A2A clients against a served mesh (needs Node)
	@bash tests/e2e/run.sh

e2e-frameworks: .venv/.set-up ## Have agents of pydantic-ai and google-adk do one workflow together (fetches them once, a few minutes)
	@$(py) -m tests.e2e.frameworks.environments
	$(py) -m pytest -q -m frameworks tests/e2e/frameworks

conformance-mcp: .venv/.set-up ## Run the official MCP conformance suite, as server and as client (needs npm; three minutes)
	@$(py) -m tests.conformance.run

conformance-a2a: .venv/.set-up ## Run the A2A probe, and clients of each binding and version, against a served mesh (needs npm; five minutes)
	@$(py) -m tests.conformance.a2a

bench: .venv/.set-up ## Run the benchmarks (half an hour); each ends in one line and a JSON file
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; PYTHONPATH=. $(py) benchmarks/$$name.py; done

bench-workflows: .venv/.set-up ## Measure the workflow engine beside its peers (each in an environment of its own); ends in one line
	PYTHONPATH=. $(py) benchmarks/workflows.py

bench-mcp: .venv/.set-up ## Measure the MCP edge beside its peers with wrk (needs wrk and Node; a few minutes); ends in one line
	@PYTHONPATH=. $(py) benchmarks/mcp_calls.py
	@PYTHONPATH=. $(py) benchmarks/gateway.py

bench-a2a: .venv/.set-up ## Measure the A2A edge beside the SDK's own server with wrk (needs wrk; ten minutes); each script ends in one line
	@PYTHONPATH=. $(py) benchmarks/a2a_messages.py
	@PYTHONPATH=. $(py) benchmarks/a2a_streams.py
	@PYTHONPATH=. $(py) benchmarks/a2a_proxy.py
	@PYTHONPATH=. $(py) benchmarks/routing.py

train: .venv/.set-up ## Train the shipped model again (about an hour on two cores)
	$(py) -m training.train

eval: .venv/.set-up ## Score the shipped model on the held-out logs
	$(py) -m training.evaluate

lock: .venv/.set-up ## Write the lock files from what is installed
	$(py) requirements/lock.py

clean: ## Remove caches and build output (not .venv, not a mesh's state)
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
