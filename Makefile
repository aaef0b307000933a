# Every target works on a fresh clone with nothing done before.
PYTHON ?= python3
VENV ?= .venv
# A CPU build. For another one, e.g. `make setup TORCH=torch==2.14.1`.
TORCH ?= torch==2.13.0
RUN ?= runs/demo
PEERS ?= --json runs/peers.json --picture runs/peers.png

BIN := $(VENV)/bin
STAMP := $(VENV)/.tfc_fast
NATIVE := $(shell find csrc cmake -type f) CMakeLists.txt pyproject.toml

.PHONY: setup demo browser test lint format types bench overhead peers dist cuda-check cuda-report
.PHONY: cuda-build-check clean help

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP)-deps: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group build --group test --group lint
	touch $@

$(STAMP)-built: $(STAMP)-deps $(NATIVE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable '.[all]'
	touch $@

setup: $(STAMP)-built ## Make .venv with torch and the package, compiled

demo: setup ## Train the deep MLP on real digits, probed at every step, and write its report
	$(BIN)/tfc-fast train --out $(RUN) --overwrite
	$(BIN)/tfc-fast report $(RUN)

# Where the system has no apt or the user may not use it, the tests of the page are skipped, and say so.
browser: ## Install Chromium for the tests of the report page, where apt can
	@for name in $$TFC_FAST_CHROMIUM chromium chromium-browser google-chrome; do \
		if command -v "$$name" >/dev/null; then exit 0; fi; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium >/dev/null && exit 0; \
	fi; \
	echo 'no Chromium, and no apt-get as root to get it: tests of the report page are skipped'

# Threads that wait for each other sleep: there are more than processors, and spinning would hold up the rest.
test: setup browser ## Run all tests, on all processors
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --dist worksteal

lint: setup ## Check style of Python and C++
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files csrc tests/cuda_emulation/'*.h' tests/cuda_emulation/'*.cpp' | xargs $(CURDIR)/$(BIN)/clang-format --dry-run --Werror

format: setup ## Bring Python and C++ into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files csrc tests/cuda_emulation/'*.h' tests/cuda_emulation/'*.cpp' | xargs $(BIN)/clang-format -i

types: setup ## Check types
	$(BIN)/mypy

bench: setup ## Time the kernels
	$(BIN)/python -m pytest benchmarks --benchmark-only

overhead: setup ## Measure what probing adds to a training step
	$(BIN)/tfc-fast bench overhead

# With the torch that is there: what depends on torch may bring no other.
peers: setup ## Measure what other libraries take for the same, side by side
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' --group peers
	$(BIN)/python benchmarks/peers.py $(PEERS)

# The wheel takes what `setup` has compiled; that the sdist lacks no source is looked at.
dist: setup ## Build sdist and wheel, and test the wheel away from the source tree
	rm -rf dist
	$(BIN)/python -m build --no-isolation --sdist --wheel --outdir dist
	$(BIN)/python tests/packaging/check_wheel.py dist

cuda-check: ## Compile the CUDA kernels, if nvcc is there, and look for spilled registers
	$(PYTHON) tests/packaging/check_cuda.py

cuda-report: ## The same for sm_90 too, and write docs/cuda-kernels.txt
	$(PYTHON) tests/packaging/check_cuda.py --report docs/cuda-kernels.txt

# Of 5 GB, and not part of .ci/run. CUDA_BUILD='--architectures all' for the whole.
cuda-build-check: ## Build for CUDA in an environment of its own, with nvcc but no need of a GPU, and look at it
	$(PYTHON) tests/packaging/check_cuda_build.py $(CUDA_BUILD)

clean: ## Remove everything that the targets make
	rm -rf $(VENV) build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
