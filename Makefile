# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make reproduce    install, fetch the data, run the default grid, render its tables and figures
#   make test         install, run all tests
# While you write: make quick (a minute), then make clean-notebooks, make check. CONTRIBUTING.md says more.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
GRIDS ?= demo.yaml mini-hac.yaml adaptation.yaml
# Test files at once, with one thread each; for two cores: a third of the time a test waits for what it has started.
JOBS ?= 3
# Empty: git and Jupyter stay as they are (make setup HOOKS=).
HOOKS ?= yes
# More options for JupyterLab; on a server: make lab LAB_ARGS="--no-browser --port 9999 --ip 0.0.0.0"
LAB_ARGS ?=

# Python keeps what it has compiled, also on machines that forbid it, as some containers do: there every process would compile PyTorch
# anew, which takes twice as long as all that most of them do.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: reproduce test quick setup docs readme lab check clean-notebooks bench

reproduce: setup
	$(BIN)/moosa data get av-digits
	$(BIN)/moosa data get mini-hac
	for grid in $(GRIDS); do $(BIN)/moosa grid $$grid && $(BIN)/moosa report $$grid || exit 1; done

test: setup
	$(BIN)/moosa data get av-digits
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations 20

# What a developer runs between two edits: notebooks of short functions, and the tests of words, numbers and commands.
# One notebook more: .venv/bin/python -m pytest tests/test_notebooks.py -k runs/02_spec
quick: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist load -m "quick and not slow" --durations 5

setup: $(VENV)/.installed

# Runs again whenever the requirements change. Python compiles what is imported, when it is, most of it here, so that it is there whoever
# starts moosa afterwards; pip would compile five times as many files, for a minute and more.
$(VENV)/.installed: settings.ini pyproject.toml setup.py
	@echo "1/3 A virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "2/3 moosa and what it needs: about 2 GB with PyTorch for CPUs, two to ten minutes"
	$(BIN)/python -m pip install --progress-bar on --no-compile -e ".[dev]"
	$(BIN)/python -c "import moosa.results.run_figures, moosa.runs.experiment, papermill, ipykernel.ipkernel, torch._dynamo"
	@echo "3/3 Hooks that keep notebooks mergeable, where this is a git checkout"
	if [ -n "$(HOOKS)" ] && [ -d .git ]; then \
	  $(BIN)/nbdev-install-hooks --diff False && \
	  git config merge.jupyternotebook.driver "'$(abspath $(BIN))/nbdev-merge' %O %A %B %P" && \
	  printf '#!/bin/sh\n"%s"\n' "$(abspath $(BIN))/nbdev-trust" > .git/hooks/post-merge; fi
	touch $@

docs: setup
	$(BIN)/moosa data get av-digits
	$(BIN)/python tools/docs.py

readme: setup
	$(BIN)/python tools/docs.py --readme

# At a page with runs, reports and tutorials. From the project's folder, so that all of them can be opened; with this environment's kernel,
# and without asking anybody for news and updates. In a container one is root, which JupyterLab wants to be told.
lab: setup
	$(BIN)/python -c "from moosa.commands.start import write_start; write_start('data')"
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/data/start.ipynb \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

check: setup
	$(BIN)/python tools/check.py
	$(BIN)/python tools/docs.py --readme --check

# What `make check` asks for: export, strip outputs and metadata.
clean-notebooks: setup
	$(BIN)/python tools/export.py
	$(BIN)/python tools/check.py --fix

bench: setup
	$(BIN)/python -c "from moosa.bench.report import bench, publish; bench(); print(publish())"
