# mtc_perception. Every target does its own set-up in this checkout (.venv and .overlay).
#
#   make demo [INPUT=bag|video|image-folder]     make test     make bench     make soak [MINUTES=3]
#
# PYTHON chooses the interpreter the .venv is made with (>= 3.10). Where a ROS 2 installation is
# sourced it is used; otherwise ROS 2 comes from wheels.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint audit docs bench fuzz soak clean
PYTHON ?= python3
export PYTHON

RUN := source tools/ros_env.sh &&
# A module's tests stay together: they share what they build.
PYTEST := python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 40 --durations-min 5

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: ## everything for users and developers
	@tools/setup.sh runtime offline dev tensorrt ray

demo: ## a drive through the real node under real DDS (INPUT=bag, video or image folder)
	@tools/setup.sh runtime
	@$(RUN) mtc-replay demo $(if $(INPUT),--input "$(INPUT)")

lint: ## ruff, mypy, the rules of imports, undeclared dependencies, licences
	@tools/setup.sh runtime offline dev tensorrt
	@$(MAKE) --no-print-directory _lint

test: ## lint and all tests
	@tools/setup.sh runtime offline dev tensorrt ray
	@$(MAKE) --no-print-directory _lint
	@$(RUN) $(PYTEST)

test-fast: ## tests without training and without real DDS, in three minutes
	@tools/setup.sh runtime offline dev tensorrt
	@$(RUN) $(PYTEST) -m "not slow and not dds"

audit: ## known vulnerabilities of the dependencies; asks an advisory service
	@tools/setup.sh runtime offline dev tensorrt ray
	@$(RUN) python tools/audit.py

docs: ## the documents as a site with the API reference, in out/site
	@tools/setup.sh runtime docs
	@# Not --quiet: then a broken link would pass, as `strict` counts what is logged.
	@$(RUN) NO_MKDOCS_2_WARNING=1 mkdocs build
	@echo "wrote out/site/index.html"

bench: ## the numbers of docs/benchmarks.md, measured on this machine
	@tools/setup.sh runtime offline tensorrt
	@$(RUN) python -m bench.run

fuzz: ## mutated inputs for everything that reads others' files and messages; INPUTS=10000 SEED=0
	@tools/setup.sh runtime offline tensorrt
	@$(RUN) python -m bench.fuzz --inputs $(or $(INPUTS),10000) --seed $(or $(SEED),0)

soak: ## an hour of everything that happens to a node: what grows? (MINUTES=3: a quick form)
	@tools/setup.sh runtime offline
	@$(RUN) python -m bench.soak $(if $(MINUTES),--minutes "$(MINUTES)")

clean: ## remove everything that set-up and the other targets made
	rm -rf .venv .overlay out build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.PHONY: _lint
_lint:
	@$(RUN) ruff check . && ruff format --check . && mypy && lint-imports && deptry . && python tools/licences.py
