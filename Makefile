# The verbs of the house. `make run` and `make test` set up whatever is missing first.

NB ?= 00_cam
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test lab format lint notebooks bench clean

# Execute one notebook without a screen: make run NB=00_cam ARGS="-p epochs 5"
run: $(READY)
	@mkdir -p runs
	$(BIN)/papermill notebooks/$(NB).ipynb runs/$(NB).ipynb $(ARGS)

# All the tests, in as many processes as there are cores, each with one thread; FAST=1 leaves the slow ones out.
test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder $(if $(FAST),-m "not slow") $(ARGS)

lab: $(READY)
	$(BIN)/jupyter lab notebooks

format: $(READY)
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Execute the committed notebooks again, in place.
notebooks: $(READY)
	$(BIN)/python tests/notebooks/execute.py $(wildcard notebooks/[0-9]*.ipynb)

bench: $(READY)
	@for script in $(filter-out benchmarks/common.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script $(ARGS) || exit 1; done

clean:
	rm -rf $(VENV) runs

# The first Python that is 3.11 or 3.12, unless PYTHON names one.
$(READY): pyproject.toml
	@set -e; \
	for python in $(PYTHON) python3.12 python3.11 python3; do \
	    if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then \
	        found=$$python; break; \
	    fi; \
	done; \
	test -n "$$found" || { echo "Python 3.11 or 3.12 is needed; install it or say make PYTHON=/path/to/python3.12"; exit 1; }; \
	test -x $(BIN)/python || $$found -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,onnx,photos]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[crf]' 2>$(VENV)/crf.log \
	    || echo "pydensecrf2 could not be built (no C++ compiler?): going on without it. See $(VENV)/crf.log"
	@touch $@
