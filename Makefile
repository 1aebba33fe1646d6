# `make demo` and `make test` set everything up in .venv: no root, no other step.
PYTHON ?= python3
VENV := .venv
INTERPRETER := $(shell $(PYTHON) -c 'import sys; print(sys._base_executable)' 2>/dev/null)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
STAMP := $(VENV)/installed-$(VERSION)
BIN := $(VENV)/bin
VIDEO ?=
OUT ?= out/demo
JOBS ?= 2

.PHONY: demo test test-long test-mujoco-latest lint clean

demo: $(STAMP)
	$(BIN)/t2p demo $(if $(VIDEO),tracks) --out $(OUT) $(foreach v,$(VIDEO),--video $(v))

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -rsfE --durations=25

test-long: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -rsfE -m long

# The simulator's tests on the newest MuJoCo, in an environment of its own.
LATEST := .venv-mujoco
test-mujoco-latest: $(STAMP)
	rm -rf $(LATEST)
	$(PYTHON) -m venv $(LATEST)
	grep -v '^mujoco==' requirements.txt > $(LATEST)/requirements.txt
	$(LATEST)/bin/python -m pip install -q -r $(LATEST)/requirements.txt mujoco
	$(LATEST)/bin/python -c 'import mujoco; print("MuJoCo", mujoco.__version__)'
	$(LATEST)/bin/python -m pytest -n $(JOBS) --dist worksteal -rsfE tests/sim tests/test_collect.py tests/eval

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Another PYTHON or other pins make a new environment.
$(STAMP): requirements.txt setup.cfg pyproject.toml
	@test -n "$(INTERPRETER)" || { echo "$(PYTHON) does not run here; name a Python 3.11 to 3.13: PYTHON=... make ..."; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "t2p needs Python 3.11, 3.12 or 3.13; $(PYTHON) is %d.%d. Name another: PYTHON=python3.12 make ..." % v)'
	rm -rf $(VENV)
	@if command -v uv >/dev/null 2>&1; then \
	  echo "installing with uv"; \
	  uv venv -q --python $(INTERPRETER) $(VENV) && uv pip install -q --python $(BIN)/python -r requirements.txt && \
	  uv pip install -q --python $(BIN)/python --no-deps -e .; \
	else \
	  echo "installing with pip"; \
	  $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q -r requirements.txt && \
	  $(BIN)/python -m pip install -q --no-deps -e .; \
	fi
	touch $(STAMP)

clean:
	rm -rf $(VENV) $(LATEST) build out *.egg-info
