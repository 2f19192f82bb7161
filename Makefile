# One virtual environment in .venv, made once for each state of pyproject.toml, constraints.txt and
# the C++ sources.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo serve-demo console-demo test test-fast test-system test-isa lint docs fuzz bench-cpu bench-serve bench-search bench-review bench-train bench-gpu smoke clean

help: ## Show these targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: $(VENV)/.installed ## Fetch the default model, embed and search the documents in examples/
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

serve-demo: $(VENV)/.dev ## Start a server with the default model and call it with three official clients
	$(BIN)/python examples/serve_demo.py

console-demo: $(VENV)/.dev ## Start a console with a test identity provider on loopback, and sign in to look around
	$(BIN)/python examples/console_demo.py

# some tests kill processes or keep a server busy, and may fail for want of a processor: what failed
# beside others is run once more, alone, and both runs are printed
AGAIN := --last-failed --last-failed-no-failures none
# needs Python and a compiler only
PYTEST := $(BIN)/python -m pytest --ignore tests/system

test: $(VENV)/.dev ## Run all tests but those of test-system; ARGS go to pytest
	$(PYTEST) -n 2 $(ARGS) || $(PYTEST) $(AGAIN) $(ARGS)

test-fast: $(VENV)/.dev ## Run the tests that take no more than a few seconds
	$(PYTEST) -n 2 -m "not slow and not network" $(ARGS)

test-system: $(VENV)/.dev ## Run the tests with nginx, Ray, gunicorn and a browser (tests/system); none may be skipped
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/system $(ARGS) || \
	  $(BIN)/python -m pytest $(AGAIN) tests/system $(ARGS)

test-isa: $(VENV)/.dev ## Run all tests at each instruction set, and beside spinning processes; hours; ARGS go to pytest
	$(BIN)/python runs/isa.py $(ARGS)

lint: $(VENV)/.dev ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-cpu: $(VENV)/.dev ## Time the CPU engines beside their peers, some hours; ARGS go to the benchmark
	$(BIN)/python bench/cpu_engines.py $(ARGS)

bench-serve: $(VENV)/.dev ## Load the server and its peers, half an hour; ARGS go to the benchmark
	$(BIN)/python bench/serve_load.py $(ARGS)

bench-search: $(VENV)/.dev ## Quality, speed, recall and kill tables of the knowledge base, half an hour; ARGS go to the benchmark
	$(BIN)/python bench/search.py $(ARGS)

bench-review: $(VENV)/.dev ## Plant faults in small worlds and review them, an hour; ARGS go to the benchmark (--data DIR)
	$(BIN)/python bench/review.py $(ARGS)

bench-train: $(VENV)/.dev ## Train beside sentence-transformers; ARGS go to the benchmark (--data DIR)
	$(BIN)/python bench/training.py $(ARGS)

bench-gpu: $(VENV)/.dev ## Time the torch engine on a GPU beside sentence-transformers
	$(BIN)/python bench/gpu.py $(ARGS)

smoke: $(VENV)/.dev ## Train through all stages at tiny sizes, some minutes
	sh runs/smoke.sh

fuzz: $(VENV)/.dev ## Send the server ten minutes of requests made from its own OpenAPI document
	$(BIN)/python bench/serve_fuzz.py --seconds 600

docs: $(VENV)/.docs ## Build the documentation site into site/, with every link checked
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean $(ARGS)
	@! grep -rlE '<(script|link|img|iframe)[^>]+(src|href)="?(https?:)?//' site --include='*.html'

clean: ## Remove the environment, caches and builds; downloaded models stay
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

NATIVE := $(wildcard native/src/*) native/CMakeLists.txt

# without a C++ compiler the extension is left out, and PyTorch takes its place
$(VENV)/.installed: pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; choose one with make PYTHON=python3.11")'
	@echo "Installing OpenGTE into $(VENV), once; this takes a minute or two ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade "pip>=25.1"
	@$(PIP) install --constraint constraints.txt --editable ".[search,serve]"
	@$(BIN)/python -c 'import opengte._native' || $(PIP) install --constraint constraints.txt --editable ".[search,serve,torch]"
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@echo "Installing what development needs into $(VENV), once ..."
	@$(PIP) install --constraint constraints.txt --group dev 'opengte[serve,otel,code]'
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	@echo "Installing what builds the documentation into $(VENV), once ..."
	@$(PIP) install --constraint constraints.txt --group docs
	@touch $@
