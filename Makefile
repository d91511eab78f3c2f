# The verbs of the house. `make run` and `make test` set up whatever is missing first.

NB ?= 00_cam
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := course,dev,doubts,fast,onnx,photos,site

.PHONY: run test lab format lint notebooks site bench clean

# Execute one notebook without a screen and show what it prints: make run NB=00_cam ARGS="-p epochs 5"
run: $(READY)
	@mkdir -p runs
	$(BIN)/papermill --stdout-file - notebooks/$(NB).ipynb runs/$(NB).ipynb $(ARGS)

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

# The course, the documents and the reference as pages: runs/site/html/index.html.
site: $(READY)
	$(BIN)/python scripts/build_site.py $(ARGS)

bench: $(READY)
	@for script in $(filter-out benchmarks/common.py benchmarks/gpu.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script $(ARGS) || exit 1; done

clean:
	rm -rf $(VENV) runs

# $(call pip_install,EXTRAS) installs this project with some extras. It says every ten seconds what pip is doing, and keeps
# all that pip says in a file.
LOG := $(VENV)/install.log
pip_install = $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --editable '.[$(1)]' >$(LOG) 2>&1 & \
	pid=$$!; trap "kill $$pid; exit 1" INT TERM; seconds=0; \
	while kill -0 $$pid 2>/dev/null; do \
	    sleep 1; seconds=$$((seconds + 1)); \
	    test $$((seconds % 10)) -eq 0 || continue; \
	    said=$$(grep -oE '(Collecting|Downloading|Using cached|Building) [^ ]+( \([0-9.]+ [kM]B\))?|Installing collected packages' $(LOG) | tail -n 1); \
	    printf '%5d s  %.100s\n' $$seconds "$${said:-pip starts}"; \
	done; \
	wait $$pid

# The first Python from 3.11 to 3.14, unless PYTHON names one.
$(READY): pyproject.toml
	@set -e; \
	for python in $(PYTHON) python3.12 python3.11 python3.13 python3.14 python3; do \
	    if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then \
	        found=$$python; break; \
	    fi; \
	done; \
	test -n "$$found" || { echo "Python 3.11, 3.12, 3.13 or 3.14 is needed; install it or say make PYTHON=/path/to/python3.12"; exit 1; }; \
	if test -e $(BIN)/torchrun; then \
	    echo "Bringing $(VENV) up to date with pyproject.toml."; \
	else \
	    echo "Setting up $(VENV) with $$($$found --version): on Linux 3.4 GB are downloaded, which take up 7 GB of disk,"; \
	    echo "most of it PyTorch with CUDA. At 100 Mbit/s the download takes 5 minutes; unpacking takes a few more."; \
	fi; \
	test -x $(BIN)/python || $$found -m venv $(VENV)
	@$(call pip_install,$(EXTRAS)) || { tail -n 20 $(LOG); echo "The set-up failed: see above, and $(LOG). Say make again to go on."; exit 1; }
	@$(call pip_install,crf) || true
	@$(BIN)/python -c 'import pydensecrf' 2>/dev/null || echo "Going on without pydensecrf2, which only serves to compare: it needs a C++ compiler and Python 3.11 or 3.12. See $(LOG)."
	@touch $@
	@echo "$(VENV) is ready. Next: make run NB=00_cam (executes a lesson), make lab (opens the lessons in JupyterLab), or"
	@echo "source $(BIN)/activate for the commands wsss, papermill and python in this shell."
