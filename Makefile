# Two commands do everything on a fresh machine with Python >= 3.10 and make:
#   make lab    creates .venv, installs, opens JupyterLab on the lessons
#   make test   creates .venv, installs, runs every test (unit, notebooks, browser)
# A second call reuses the environment; it is brought up to date when pyproject.toml changes.

SHELL := /bin/sh
VENV  ?= .venv
BIN   := $(VENV)/bin
# the first interpreter that is new enough and not too new; override with `make lab PYTHON=/path/to/python`
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10 python; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)

# in this order: most begin with the body, the mask and keypoint detectors with fpn
LESSONS = rcnn small_resnet sppnet fast_rcnn faster_rcnn fpn mask_rcnn keypoint_rcnn retinanet fcos centernet detr

# the tests share the machine in so many processes, each of about 3 GB; WORKERS=0: all in one
WORKERS ?= 2

.PHONY: lab test test-unit test-notebooks test-browser lint notebooks checkpoints data benchmarks mutants chromium clean help

help:
	@sed -n '2,4s/^#//p' Makefile
	@echo "   make lint | notebooks | checkpoints | data | benchmarks | mutants | clean"

lab: $(VENV)/.lab
	cd notebooks && ../$(BIN)/jupyter lab 01_boxes_iou_nms_ap.ipynb

test: $(VENV)/.test chromium lint
	$(BIN)/python -m pytest tests -n $(WORKERS)

test-unit: $(VENV)/.test
	$(BIN)/python -m pytest tests -n $(WORKERS) -m "not notebook and not browser"

test-notebooks: $(VENV)/.test
	$(BIN)/python -m pytest tests -n $(WORKERS) -m notebook

test-browser: $(VENV)/.test chromium
	$(BIN)/python -m pytest tests -m browser

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy

# --- what is committed and can be remade -------------------------------------------------------------------------

notebooks: $(VENV)/.test
	$(BIN)/python -m utils.notebooks build

checkpoints: $(VENV)/.lab
	for lesson in $(LESSONS); do $(BIN)/python -m lessons.training $$lesson --profile full --resume || exit 1; done

data: $(VENV)/.lab
	$(BIN)/python -m utils.build_data

benchmarks: $(VENV)/.lab
	$(BIN)/python -m benchmarks ops
	$(BIN)/python -m benchmarks models
	$(BIN)/python -m benchmarks parity --dtype float32
	$(BIN)/python -m benchmarks metrics
	$(BIN)/python -m benchmarks proposals

# plants bugs in copies of the lessons and counts those that the tests find
mutants: $(VENV)/.test
	$(BIN)/python -m benchmarks mutants

clean:
	rm -rf $(VENV) build runs .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

# --- the environment ---------------------------------------------------------------------------------------------

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.10 to 3.13 was found; install one or call make with PYTHON=/path/to/python." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# uv installs the same packages in a third of the time; plain pip is the way where uv cannot be had
$(VENV)/.lab: pyproject.toml | $(BIN)/python
	@echo "Installing the lessons (the torch packages take some minutes and about 5 GB on Linux) ..."
	@{ $(BIN)/uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install -q uv; } || true
	@if $(BIN)/uv --version >/dev/null 2>&1; then $(BIN)/uv pip install -q --python $(BIN)/python -e .; \
	else $(BIN)/python -m pip install -q -e .; fi
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.lab
	@if $(BIN)/uv --version >/dev/null 2>&1; then $(BIN)/uv pip install -q --python $(BIN)/python -e '.[test]'; \
	else $(BIN)/python -m pip install -q -e '.[test]'; fi
	@touch $@

# The browser tests drive a Chromium; Debian's is installed where that is possible, else those tests say why they skip.
chromium:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq chromium >/dev/null; \
	else echo "No Chromium found; the browser tests will be skipped (on Debian: apt install chromium)."; fi
