# Two commands do everything on a fresh machine with Python 3.11 to 3.13: `make demo` and `make test`.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint types bench zoo light clean

# The first Python on the path that is new enough; `make demo PYTHON=/path/to/python3.12` uses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Another index for torch, say one with CPU-only wheels: make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TORCH_FROM := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
CIFAR10 := --mean 0.4914,0.4822,0.4465 --std 0.2470,0.2435,0.2616

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | awk -F'|' '{printf "  make %-6s %s\n", $$1, $$2}'

demo: $(VENV)/.demo ## install what is pinned, halve the example network, print before and after (no torch)
	@mkdir -p out
	$(BIN)/onnxprune examples/resnet20-cifar10.onnx --calib examples/calibration.npz --eval examples/test.npz \
		$(CIFAR10) --macs 0.5 -o out/resnet20-slim.onnx --report out/report.json --plan out/plan.json

test: lint types ## lint, types and tests
	$(BIN)/python -m pytest -n auto --maxprocesses 8

lint: $(VENV)/.test ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test ## mypy --strict
	$(BIN)/mypy

bench: $(VENV)/.bench ## onnxprune, Torch-Pruning and onnxsim on one model; fills in the README's table
	$(BIN)/python benchmarks/compare.py --write README.md

zoo: $(VENV)/.zoo ## prune real models and small networks, one process each; fills in docs/coverage.md
	$(BIN)/python benchmarks/zoo.py --write docs/coverage.md

light: $(VENV)/.zoo ## the small half of the zoo, on the screen
	$(BIN)/python benchmarks/zoo.py --light

clean: ## remove what these commands made
	rm -rf $(VENV) out build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer was found: make demo PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[cpu]"
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) $(TORCH_FROM) -e ".[cpu,test,torch]"
	@touch $@

$(VENV)/.zoo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) $(TORCH_FROM) -e ".[cpu,test,torch,zoo-inputs]"
	@touch $@

$(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) $(TORCH_FROM) -e ".[cpu,bench]"
	@touch $@
