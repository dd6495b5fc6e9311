# Everything from a fresh clone: `make demo` trains an expert and shows what it learned, `make test` runs all checks.
# Needs Python >= 3.11 (PYTHON=python3.12 to choose one), make, and a package index.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
VLLM_READY := .venv-vllm/.ready
HARNESS_READY := .venv-harness/.ready
NF4_READY := .venv-nf4/.ready
GPTQ_READY := .venv-gptq/.ready
RUN := outputs/demo/$(shell date +%Y%m%d-%H%M%S)

# Self-adaptation on unseen tasks with the experts that ship: tables, figures and JSON (an hour and three quarters on two
# cores). One that was stopped goes on with STUDY=FOLDER.
STUDY := outputs/study/$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo study docs test tests test-commands test-model test-processes test-vllm test-nf4 test-gptq test-slurm test-page test-harness test-docs test-uv zoo test-fresh vllm check format bench gpu clean

demo: $(READY)
	$(BIN)/python train.py experiment=demo callbacks.validation.every=15 callbacks.validation.limit=50 logger=csv hydra.run.dir=$(RUN)/train
	$(BIN)/python evaluate.py task=add2 adapter=svf_top16 expert=$(RUN)/train generation.batch_rows=256 generation.dtype=auto limit=300 controls.limit=50 controls.only_best=true logger=none hydra.run.dir=$(RUN)/evaluate
	@echo
	@echo "Two passes with the experts that ship: which domain is a prompt of, then the answer of its expert and of the base"
	$(BIN)/python adapt.py experts=smollm2_135m strategy=classifier prompt_file=docs/prompts.txt sampling.max_new_tokens=24 hydra.run.dir=$(RUN)/adapt
	@echo
	@echo "The expert: $(RUN)/train/expert.safetensors, its learning curve: $(RUN)/train/learning_curve.png"
	@echo "Next:       $(BIN)/python adapt.py expert=$(RUN)/train prompt='State the final answer to the following arithmetic problem: 17 + 48 ='"

study: $(READY)
	$(BIN)/python evaluate.py -m experiment=study/unseen_wide seed=0,1,2 \
		only=asdiv,boolq,commonsense_qa,number_filter,fraction,word_reversal hydra/launcher=joblib hydra.launcher.n_jobs=2 \
		skip_finished=true hydra.sweep.dir=$(STUDY) 'hydra.sweep.subdir=$${only}_seed_$${seed}'
	$(BIN)/python -m t2.evaluation.study $(STUDY)/*/ --out $(STUDY)

# Nothing is loaded from elsewhere: outputs/site opens from the disk.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Checks and tests side by side. Two processes of one thread each; a file's tests stay in one process.
test: $(READY)
	@$(MAKE) --no-print-directory -j2 check tests

tests: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not processes and not commands and (not embedded or smoke)"

# The scripts' options, every command of the documentation, the paper's experiments, the benchmarks.
test-commands: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "commands and not processes"

# What is particular to the embedded model: its decomposition, answers, gradients, and the experts that ship.
MODEL_TESTS := tests/test_embedded.py tests/models/test_loading.py
test-model: $(READY)
	$(BIN)/pytest --no-skips -m "embedded and not smoke" $(MODEL_TESTS)

# Those of several processes: ranks, shards, kills and what comes after, a server.
test-processes: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m processes

# The CPU build of vLLM wants other versions than the rest, so it lives in an environment of its own.
vllm: $(VLLM_READY)

test-vllm: $(VLLM_READY)
	.venv-vllm/bin/pytest --no-skips tests/policy/test_vllm.py tests/policy/test_vllm_server.py tests/serving/test_vllm_backend.py

# bitsandbytes alone, beside what .venv has: PEFT would import it wherever it is installed, at a second a start.
test-nf4: $(READY) $(NF4_READY)
	PYTHONPATH=.venv-nf4 OMP_NUM_THREADS=1 $(BIN)/pytest --no-skips tests/models/test_nf4.py

# GPTQ and AWQ: gptqmodel makes a checkpoint of a tiny model of each, which is loaded as a user loads it.
test-gptq: $(READY) $(GPTQ_READY)
	PYTHONPATH=.venv-gptq GPTQMODEL_CPU_WORKERS=2 OMP_NUM_THREADS=1 $(BIN)/pytest --no-skips tests/models/test_gptqmodel.py

# On a Slurm of its own, on this machine, which is stopped afterwards. Its Debian packages are installed where root may.
test-slurm: $(READY)
	@trap 'scripts/slurm/down.sh' EXIT; trap 'exit 130' INT TERM; \
	out=$$(scripts/slurm/up.sh) && eval "$$out" && $(BIN)/pytest --no-skips -n 3 tests/slurm

# Every architecture that transformers has, as a tiny random model: writes the tables of docs/models.md (a minute or two).
zoo: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python bench/zoo.py

# The server's page in headless Chromium, with the real model. Chromium is installed where root may, on Debian.
# SCREENSHOTS=docs/figures also makes the images of docs/serving.md anew.
test-page: $(READY)
	@chromium=$$(scripts/chromium.sh) && \
	T2_CHROMIUM=$$chromium T2_SCREENSHOTS=$(SCREENSHOTS) OMP_NUM_THREADS=1 $(BIN)/pytest --no-skips tests/page

# The notebook, from its first cell to its last; python scripts/notebook.py writes docs/quickstart.ipynb anew.
test-docs: $(READY)
	$(BIN)/python scripts/notebook.py --check

# uv agrees with pip: nothing but this package is missing in .venv, and newer Pythons find versions of everything.
test-uv: $(READY)
	$(BIN)/uv pip install --quiet --dry-run --python $(BIN)/python --constraint constraints.txt --editable ".[dev]"
	for version in 3.12 3.13 3.14; do $(BIN)/uv pip compile --quiet --python-version $$version --constraint constraints.txt \
		--extra dev --output-file /dev/null pyproject.toml || exit 1; done

# lm-evaluation-harness brings fifty packages that nothing else here needs, and verifiers wants an older openai than the
# server does: an environment of their own.
test-harness: $(HARNESS_READY)
	OMP_NUM_THREADS=1 .venv-harness/bin/pytest --no-skips tests/harness tests/experts/test_gguf_in_llama_cpp.py

# `make demo` and `make test` in a Debian that holds Python, make, git and nothing else. Needs root, and debootstrap.
test-fresh:
	PYTHON=$(PYTHON) scripts/test_fresh.sh

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

# On a machine with a GPU, torch, transformers and Lightning, without an environment of its own: make gpu PYTHON=python3
gpu:
	PYTHONPATH=. $(PYTHON) bench/gpu.py

# torch first and alone: an index may hold a CPU build of this very version, which a range would pass over.
# Then what reasoning-gym wants of pycosat, which is source for a C compiler on every index.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("t2 needs Python 3.11 or newer, got " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet ./stand_ins/pycosat
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(READY)

# It brings CUDA builds of torchvision, torchaudio and torchcodec that break `import vllm` without a GPU.
$(VLLM_READY): pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet "$$(grep '^torch==' constraints-vllm.txt)"
	.venv-vllm/bin/pip install --quiet ./stand_ins/pycosat
	.venv-vllm/bin/pip install --quiet --constraint constraints-vllm.txt --editable ".[vllm,synthetic]" pytest hypothesis
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $(VLLM_READY)

$(HARNESS_READY): pyproject.toml constraints-harness.txt
	$(PYTHON) -m venv .venv-harness
	.venv-harness/bin/pip install --quiet "$$(grep '^torch==' constraints-harness.txt)"
	.venv-harness/bin/pip install --quiet ./stand_ins/pycosat
	.venv-harness/bin/pip install --quiet --constraint constraints-harness.txt --editable ".[harness,synthetic]" pytest hypothesis xllamacpp
	@touch $(HARNESS_READY)

$(NF4_READY): pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --upgrade --no-deps --target .venv-nf4 "$$(grep '^bitsandbytes==' constraints.txt)"
	@touch $(NF4_READY)

$(GPTQ_READY): constraints-gptq.txt
	BUILD_CUDA_EXT=0 $(BIN)/pip install --quiet --upgrade --no-deps --target .venv-gptq --requirement constraints-gptq.txt
	@touch $(GPTQ_READY)

clean:
	rm -rf .venv .venv-vllm .venv-harness .venv-nf4 .venv-gptq outputs multirun
