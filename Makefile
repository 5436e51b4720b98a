# The two that matter: make demo, make test. Each does its own set-up; only Python 3.11 or newer is needed.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)

.PHONY: help demo demo-cluster test test-fast lint format bench requirements image chart cluster-tools cluster cluster-image cluster-down clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## an alert becomes a merged profile, on this machine, in a minute
	@$(BIN)/nodeobs demo

# Most tests wait for something: three processes share them, a module at a time. Each has a cluster of its own.
TOGETHER := --numprocesses 3 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.development ## every test; those that need a program which is missing are skipped by name
	$(BIN)/python -m pytest $(TOGETHER)

test-fast: $(VENV)/.development ## without the slow ones and the real Prometheus, Alertmanager, containerd, Kubernetes
	$(BIN)/python -m pytest $(TOGETHER) -m "not slow and not integration and not cluster"

lint: $(VENV)/.development ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.development ## let ruff arrange the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.development ## every benchmark, one JSON line each
	@for name in admission agent_memory crowd fanout merge overhead selfprofile webhook; do $(BIN)/python -m bench.$$name || exit 1; done

requirements: $(VENV)/.development ## pin the newest versions that pyproject.toml allows
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --generate-hashes --universal --python-version 3.11 \
		--no-header -o requirements.txt
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --extra dev --generate-hashes --universal \
		--python-version 3.11 --no-header -c requirements.txt -o requirements-dev.txt

ENGINE ?= $(shell for e in podman docker buildah; do \
	command -v $$e >/dev/null && $$e info >/dev/null 2>&1 && { echo $$e; break; }; done)
TAG ?= localhost/nodeobs:latest
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
image: ## the container image TAG=..., with podman, docker or buildah; on BASE=... where that is given
	@test -n "$(ENGINE)" || { echo "no podman, docker or buildah answers here: docs/image.md" >&2; exit 1; }
	$(ENGINE) build --tag $(TAG) $(if $(BASE),--build-arg BASE=$(BASE)) $(BUILD_ARGS) \
		--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
		$(if $(findstring docker,$(ENGINE)),,--layers --timestamp $(SOURCE_DATE_EPOCH)) .

chart: $(VENV)/.development ## write what the chart has from the code: definitions, rights, the webhook, its README's values
	$(BIN)/python -m charts.generate

cluster-tools: $(VENV)/.development ## the programs of Kubernetes, into a cache outside the clone (ten minutes, once)
	@$(BIN)/python -m tests.lab tools

demo-cluster: cluster-tools ## the same in a real cluster of three nodes on this machine; needs root and Linux
	@$(BIN)/python -m tests.chart.demo

N ?= 3
cluster: $(VENV)/.development ## a real cluster of N=3 nodes on this machine, to play with; needs root and Linux
	@$(BIN)/python -m tests.lab up --nodes $(N)

cluster-image: $(VENV)/.development ## import IMAGE=FILE.tar on every node of it
	@test -n "$(IMAGE)" || { echo "say which: make cluster-image IMAGE=FILE.tar" >&2; exit 1; }
	@$(BIN)/python -m tests.lab load "$(IMAGE)"

cluster-down: $(VENV)/.development ## end it; nothing stays
	@$(BIN)/python -m tests.lab down

clean: ## remove what make and the demo made
	rm -rf $(VENV) build dist *.egg-info nodeobs-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "nodeobs needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
		rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: $(VENV)/bin/python requirements.txt pyproject.toml
	@echo "Installing nodeobs into $(VENV) (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.development: $(VENV)/.runtime requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@
