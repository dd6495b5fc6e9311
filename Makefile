# Everything from a fresh clone: `make demo` trains an expert and shows what it learned, `make test` runs all checks.
# Needs Python >= 3.11 (PYTHON=python3.12 to choose one), make, and a package index.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
RUN := outputs/demo/$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo test check format bench clean

demo: $(READY)
	$(BIN)/python train.py experiment=demo hydra.run.dir=$(RUN)/train
	$(BIN)/python evaluate.py experiment=demo expert=$(RUN)/train hydra.run.dir=$(RUN)/evaluate
	@$(BIN)/python -m t2.analysis --figure $(RUN)/learning_curve.png $(RUN)/train $(RUN)/evaluate
	@echo
	@echo "The expert: $(RUN)/train/expert.safetensors"
	@echo "Next:       $(BIN)/python adapt.py expert=$(RUN)/train prompt='State the final answer to the following arithmetic problem: 7 + 8 ='"

test: check
	$(BIN)/pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python bench/step.py

# torch first and alone: an index may hold a CPU build of this very version, which a range would pass over.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("t2 needs Python 3.11 or newer, got " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(READY)

clean:
	rm -rf .venv outputs multirun
