.DEFAULT_GOAL := help
PY := .venv/bin/python
UV := $(or $(shell command -v uv 2>/dev/null),.tools/bin/uv)
CONFIG ?= configs/digits.yaml
HEAVY ?= heavy
COMPILE = $(UV) pip compile -q --upgrade --universal --generate-hashes --custom-compile-command "make lock"

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

train: .venv/.stamp ## set up, then train on real digits (or CONFIG=configs/x.yaml)
	@$(PY) -m src.cli fit --config $(CONFIG)

test: .venv/.stamp ## set up, then run the tests that a project needs
	@$(PY) -m pytest -n auto -q -m "not heavy"

check: lint test ## check format, lint and types, then run `make test`

check-all: check heavy ## `make check`, and the tests that `make test` leaves out

lint: .venv/.stamp ## check format, lint and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

heavy: .venv/.stamp ## run the tests that `make test` leaves out
	@$(PY) -m pytest -n auto -q -m "$(HEAVY)"

format: .venv/.stamp ## format the code
	@$(PY) -m ruff format . && $(PY) -m ruff check --fix .

show: .venv/.stamp ## draw augmented training images of CONFIG: show.png
	@$(PY) -m src.cli show --config $(CONFIG)

schedule: .venv/.stamp ## draw the learning rate of CONFIG over the run: schedule.png
	@$(PY) -m src.cli schedule --config $(CONFIG)

tensorboard: .venv/.stamp ## show curves, pictures and settings of all runs in the browser
	@$(PY) -m tensorboard.main --logdir runs

schema: .venv/.stamp ## write configs/schema.json: completion and checks in the editor
	@$(PY) -W ignore -m scripts.schema

lock:: $(filter .tools/bin/uv,$(UV)) ## pin the newest version of every dependency, with hashes
	@$(COMPILE) --group pyproject.toml:dev pyproject.toml -o requirements.lock
	@$(COMPILE) --all-extras $(ALSO) -c requirements.lock pyproject.toml -o requirements-extras.lock

audit: $(filter .tools/bin/uv,$(UV)) ## look up known vulnerabilities of the pinned dependencies
	@$(UV) tool run pip-audit -r requirements.lock --disable-pip --progress-spinner off

extras: .venv/.stamp ## install the optional dependencies
	@$(UV) pip install -q --python $(PY) --require-hashes --compile-bytecode -r requirements-extras.lock

clean: ## remove the environment and the caches; keep runs/ and data/
	rm -rf .venv .tools .pytest_cache .ruff_cache .mypy_cache

setup: $(filter .tools/bin/uv,$(UV)) ## install the dependencies into .venv
	@echo "setting up: installing dependencies into .venv (about 6 GB on Linux, PyTorch with CUDA)"
	@test -x $(PY) || $(UV) venv -q --python python3 .venv
	@$(UV) pip sync -q --python $(PY) --require-hashes --compile-bytecode requirements.lock

.venv/.stamp: requirements.lock # the lock that is installed; .venv may be a link to that of another checkout
	@cmp -s $< $@ || $(MAKE) --no-print-directory setup
	@cp $< $@

.tools/bin/uv:
	@echo "setting up: uv is not on the PATH, installing it into .tools"
	@{ python3 -m venv .tools >/dev/null 2>&1 && .tools/bin/python -m pip install -q --disable-pip-version-check uv; } \
	|| { rm -rf .tools; python3 -m pip install -q --target .tools uv 2>/dev/null; } \
	|| { curl -LsSf https://astral.sh/uv/install.sh | env UV_INSTALL_DIR="$(CURDIR)/.tools/bin" INSTALLER_NO_MODIFY_PATH=1 sh; } \
	|| { echo "cannot install uv: needs python3 with venv or pip, or curl (https://docs.astral.sh/uv)" >&2; exit 2; }

.PHONY: help setup train test check check-all lint heavy format show schedule tensorboard schema lock audit extras clean

-include $(wildcard tools/Makefile scripts/*/Makefile)
