# `make run` and `make test` set up what they need on a fresh machine: Python 3.11 or later is all they ask for.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test test-docker check unit mutants gpu docs setup config lock clean

setup: $(READY)

# uv installs the lock several times faster than pip; its own version is the lock's. Compiled once here: where Python may
# not write bytecode (PYTHONDONTWRITEBYTECODE), every process would compile PyTorch, Ray and ours anew
$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(sed -n 's/^\(uv==[0-9.]*\).*/\1/p' requirements.lock)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q clients fedrobust partitions strategies
	touch $@

run: $(READY)
	$(BIN)/fedrobust run quickstart

test: check unit

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

# workers that take whole files: what the tests of a file share is made once, and Ray starts once in it; three, because
# those on real processes wait more than they compute
unit: $(READY)
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=12

# the compose file's containers, and faults in them: needs a Docker Engine, and half an hour
test-docker: $(READY)
	FEDROBUST_TEST_DOCKER=1 $(BIN)/pytest -rs tests/deployment/test_containers.py

# faults put into a copy one by one, each to be seen by the tests named beside it: four minutes on two idle cores, eleven on busy ones
mutants: $(READY)
	$(BIN)/python tests/mutants.py $(FAULTS)

# what is most worth ten minutes of a GPU, in runs/gpu; called again it goes on
gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu --minutes 9 --out runs/gpu

# the pages of docs/ and a reference made of the docstrings, in build/site; a warning is an error
docs: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-build-isolation -e ".[docs]"
	$(BIN)/mkdocs build --strict

# the run-config table in pyproject.toml, from fedrobust/config/settings.py
config: $(READY)
	$(BIN)/python -m fedrobust.config.table pyproject.toml

lock:
	$(BIN)/uv pip compile pyproject.toml --extra dev --generate-hashes --universal --python-version 3.11 --no-header --quiet -o requirements.lock

clean:
	rm -rf $(VENV)
