# Needs make and Python 3.11 or newer; everything else goes into .venv.
#
#   make demo        install docr and convert examples/ with the small model that it ships
#   make test        all tests but the slow ones
#   make check       formatting, lint, types and unit tests, under a minute once installed
#   make lint        the same without the tests
#   make test-slow   the tests that take minutes
#   make faults      kills, broken files and failing disks by the thousand; about an hour
#   make bench       time 40 pages with the toy model; the summary is JSON on stdout
#   make clean       remove what these made
#
# Another interpreter: make test PYTHON=python3.12
# Other numbers:       make faults KILLS=200 MUTANTS=2000

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TOY := .demo/toy-model
KILLS ?= 1000
MUTANTS ?= 10000

# One thread a process: small matrices gain nothing from more. Four processes on two cores: many
# tests wait for disks and for other processes.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

.PHONY: help demo test test-slow faults lint check bench clean
.DELETE_ON_ERROR:

help:
	@sed -n '3,/^$$/s/^# \{0,1\}//p' Makefile

# The stamps keep a second `make` from installing again; a changed project file does.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'docr needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing docr into $(VENV) (torch is large: minutes on the first run) ...'
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing docr and its development tools into $(VENV) (minutes on the first run) ...'
	$(PIP) -e '.[dev]'
	@touch $(VENV)/.installed $@

$(TOY)/config.json: scripts/make_random_checkpoint.py | $(VENV)/.installed
	$(BIN)/python scripts/make_random_checkpoint.py $(TOY) --preset toy

demo: $(VENV)/.installed
	@echo
	@echo 'NOTE: the model that ships with docr is a small preview. It reads a few lines of large'
	@echo '      type, as on slides and notices; of dense pages it makes little or nothing. Those'
	@echo '      need the full model (README, "The model").'
	@echo
	$(BIN)/docr convert examples -o demo-out --overwrite --model mini --max-tokens 500
	@echo
	@echo 'examples/slides.pdf has two pages of large type. This was read from them:'
	@echo
	@sed 's/^/  | /' demo-out/slides.pdf/document.md
	@echo
	@echo 'One Markdown file a document, one Markdown and one JSON file a page:'
	@find demo-out -name '*.md' | sort | sed 's/^/  /'
	@echo 'The Markdown is in: demo-out/'

test: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/python -m pytest -n 4 --dist worksteal -m 'not slow and not faults and not checkpoint'

test-slow: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/python -m pytest -m 'slow and not checkpoint'

# Two processes: on more, what is timed is waiting for each other. -rP prints the counts.
faults: $(VENV)/.installed-dev
	$(TEST_ENV) FAULTS_KILLS=$(KILLS) FAULTS_MUTANTS=$(MUTANTS) \
	    $(BIN)/python -m pytest -n 2 --dist worksteal -rP \
	    -m 'faults and not checkpoint'

lint: $(VENV)/.installed-dev
	scripts/check --static $(BIN)/python

check: $(VENV)/.installed-dev
	$(TEST_ENV) scripts/check $(BIN)/python

bench: $(VENV)/.installed $(TOY)/config.json
	$(BIN)/python scripts/make_long_pdf.py .demo/bench.pdf --pages 40
	$(BIN)/docr convert .demo/bench.pdf -o .demo/bench-out --overwrite --json \
	    --model $(TOY) --mode tiny --max-tokens 64

clean:
	rm -rf $(VENV) .demo demo-out build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find docr tests scripts -name __pycache__ -type d -exec rm -rf {} +
