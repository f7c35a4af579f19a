# make demo   the main job: three LoRA fine-tunes stream to one sidecar      make test   everything
# make check  the quick checks                                              make bench  the figures
# make guarantees  what survives which fault, beside plain wandb            make soak   faults for hours
# make soak-online  the same for runs that go to W&B's server
.DEFAULT_GOAL := help
SHELL := /bin/bash -euo pipefail
BUF_VERSION := 1.75.0
PYTHON ?= python3
BIN := .venv/bin
BUF := .tools/node_modules/.bin/buf
CODE := client sidecar trainer tests benchmarks
PROTOS := $(wildcard protos/pillion/v1/*.proto)

.PHONY: help demo test check anomalies bench bench-reads bench-store bench-trainer guarantees soak soak-online system proto format clean

help:  ## Show this.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: .venv/installed  ## Fine-tune three LoRA variants at once, logged by one sidecar, and compare them.
	@$(BIN)/pillion demo $(ARGS)

# One more than there are cores, since many tests wait: for timeouts, for a server, for a sync.
TEST_PROCESSES ?= $(shell expr $$(nproc) + 1)
# Tests start hundreds of interpreters, and each would compile all of Pillion anew.
unexport PYTHONDONTWRITEBYTECODE
test: system .venv/installed .venv-oldest/installed $(BUF)  ## Run the whole test suite.
	$(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder $(ARGS)

check: system .venv/installed .venv-proto/installed $(BUF)  ## Format, lint, types, imports, generated code, unit and contract tests.
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BUF) lint
	@$(MAKE) --no-print-directory PROTO_OUT=.tools/generated proto
	diff -r -x '__pycache__' -x '__init__.py' -x py.typed .tools/generated/pillion/v1 client/pillion/v1
	$(BIN)/pytest --quiet --numprocesses auto tests/unit tests/contract

anomalies: .venv/installed  ## Measure what the rules for anomalies miss and raise for nothing; writes docs/anomalies.md.
	$(BIN)/python benchmarks/anomalies.py $(ARGS)

bench: .venv/installed  ## Measure log(), acked points per second, beside wandb offline.
	$(BIN)/python benchmarks/bench.py $(ARGS)

bench-store: system .venv/installed .venv-trackio/installed  ## Measure the store, beside trackio and a plain table.
	$(BIN)/python benchmarks/store.py --trackio .venv-trackio/bin/python $(ARGS)

bench-reads: .venv/installed .venv-trackio/installed  ## Measure reading and comparing, beside trackio and a plain table.
	$(BIN)/python benchmarks/reads.py --trackio .venv-trackio/bin/python $(ARGS)
	$(BIN)/python benchmarks/compare.py --trackio .venv-trackio/bin/python $(ARGS)

bench-trainer: .venv/installed  ## Measure what logging adds to a training step, beside wandb offline.
	$(BIN)/python benchmarks/trainer.py $(ARGS)

guarantees: system .venv/installed  ## Do every fault and write what it left into docs/guarantees.md.
	$(BIN)/python benchmarks/guarantees.py $(ARGS)

soak: system .venv/installed  ## Faults at random, for 10 minutes or ARGS='--minutes 60'.
	$(BIN)/python benchmarks/soak.py $(ARGS)

soak-online: .venv/installed  ## The same while runs go to a stand-in for W&B's server, for 3 minutes.
	$(BIN)/python benchmarks/soak_online.py $(ARGS)

# Debian packages that the tests need. As root they are installed, else the line to run is shown.
SYSTEM_COMMANDS := npm strace ip pg_ctlcluster
SYSTEM_PACKAGES := npm strace iproute2 postgresql
system:
	@if ! type $(SYSTEM_COMMANDS) &>/dev/null; then \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq $(SYSTEM_PACKAGES); \
	  else echo "The tests need Debian packages: sudo apt-get install $(SYSTEM_PACKAGES)" >&2; exit 1; fi; fi

PROTO_OUT ?= client
proto: .venv-proto/installed  ## Generate client/pillion/v1 from protos/.
	@mkdir -p $(PROTO_OUT)
	@.venv-proto/bin/python -m grpc_tools.protoc -I protos --python_out=$(PROTO_OUT) \
	  --pyi_out=$(PROTO_OUT) --grpc_python_out=$(PROTO_OUT) $(PROTOS:protos/%=%)

format: .venv/installed  ## Format and mend what can be mended by itself.
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

clean:  ## Remove what make has built (never your runs).
	rm -rf .venv .venv-proto .venv-oldest .venv-trackio .tools

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[sidecar,postgresql,trainer,dev]'
	@touch $@

# grpcio-tools brings a protobuf 5 that cannot live beside today's health and reflection packages.
.venv-proto/installed: Makefile
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/pip install --quiet --disable-pip-version-check grpcio-tools==1.71.2 'setuptools<81'
	@touch $@

# The oldest libraries the client promises to run on.
.venv-oldest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet --disable-pip-version-check grpcio==1.71.2 protobuf==5.29.1
	@touch $@

# What the store's benchmark measures beside. It wants other versions than the sidecar.
.venv-trackio/installed: Makefile
	$(PYTHON) -m venv .venv-trackio
	.venv-trackio/bin/pip install --quiet --disable-pip-version-check trackio==0.43.0
	@touch $@

$(BUF): Makefile
	npm install --prefix .tools --no-save --silent @bufbuild/buf@$(BUF_VERSION)
	@touch $@
