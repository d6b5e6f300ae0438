# make serve   install, get the model and serve it on http://127.0.0.1:7860
# make test    install, lint and test
# make test-fast  run the tests that start no server and are not slow
# make lint    check style and types
# make format  mend the style
# make bench   measure the service beside others, for an hour and a half (BENCH_FLAGS=… selects what to measure)
# make kernel  install and build the kernel again, if that has failed

# The first Python of 3.11 or newer; PYTHON=… names another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
TORCH := $(shell sed -n 's/^torch==//p' requirements.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet

KERNEL := embedding_api/encoder/kernel

# Several processes of pytest. Tests that start a server run one after the other: each needs all cores.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile

PEERS := naive infinity fastembed

# What the tests of clients need. Without npm they are skipped, and say why.
JAVASCRIPT := tests/clients-js/node_modules
CLIENTS := .venv-clients/installed $(if $(shell command -v npm 2>/dev/null),$(JAVASCRIPT)/installed)

.PHONY: serve test test-fast lint format bench kernel clean

serve: $(KERNEL)/built
	@.venv/bin/python -m embedding_api serve

test: lint $(KERNEL)/built $(CLIENTS) .venv-stores/installed
	.venv/bin/python -m pytest $(PARALLEL) -m "not service" $(PYTEST_FLAGS)
	.venv/bin/python -m pytest -m service $(PYTEST_FLAGS)

test-fast: .venv/installed-dev $(KERNEL)/built
	.venv/bin/python -m pytest $(PARALLEL) -m "not service and not slow" $(PYTEST_FLAGS)

lint: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/hadolint Dockerfile

format: .venv/installed-dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: .venv/installed-bench $(KERNEL)/built $(PEERS:%=.bench/%/installed)
	.venv/bin/python -m benchmarks.peers $(BENCH_FLAGS)

kernel:
	@rm -f $(KERNEL)/built
	@$(MAKE) --no-print-directory $(KERNEL)/built

clean:
	rm -rf .venv .venv-clients .venv-stores $(JAVASCRIPT) .bench build *.egg-info $(KERNEL)/*.so $(KERNEL)/manifest.json $(KERNEL)/build-error.txt $(KERNEL)/built

.venv/bin/python:
	@[ "$$(uname -s)" = Linux ] || { echo "Error: The service needs Linux; the Dockerfile has it."; exit 1; }
	@$(if $(PYTHON),$(PYTHON),python3) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Error: Python 3.11 or \
	newer is needed, and %s is %d.%d: install one, or name it: make serve PYTHON=/path/to/python3.11" \
	% (sys.executable, *sys.version_info[:2]))'
	$(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }

# torch by itself first: PyTorch's index is asked for this one package only, and what it finds satisfies requirements.txt.
.venv/installed: requirements.txt constraints.txt | .venv/bin/python
	@echo "Installing into .venv; the first time this takes some minutes."
	@$(PIP) --no-deps --retries 1 --extra-index-url $(CPU_INDEX) torch==$(TORCH)+cpu || { \
	echo "****************************************************************************************************"; \
	echo "  The CPU build of torch $(TORCH) cannot be had: pip says why above."; \
	echo "  In 15 seconds the standard build is installed instead. It works as well, but brings SEVERAL"; \
	echo "  GIGABYTES of CUDA packages along. To avoid them press Ctrl-C now, and get the CPU build from a mirror:"; \
	echo "    .venv/bin/pip install --no-deps --index-url YOUR_MIRROR torch==$(TORCH)+cpu"; \
	echo "****************************************************************************************************"; \
	sleep 15; }
	@$(PIP) -r requirements.txt -c constraints.txt
	@touch $@

# pip fetches the compiler (100 MB) into an environment of its own, which it deletes. If it cannot, the compiler in .venv
# is used: make test installs it there.
$(KERNEL)/built: $(wildcard $(KERNEL)/*.[ch]) $(KERNEL)/build.py setup.py pyproject.toml .venv/installed
	@echo "Building the kernel; with its compiler to fetch this takes half a minute."
	@{ ! .venv/bin/python -c 'import ziglang' && $(PIP) --retries 1 --no-deps -e .; } 2>/dev/null \
	|| $(PIP) --no-deps --no-build-isolation -e .
	@[ ! -f $(KERNEL)/build-error.txt ] || echo "$$(cat $(KERNEL)/build-error.txt) 'make kernel' tries again."
	@touch $@

.venv/installed-dev: requirements-dev.txt requirements-ray.txt .venv/installed
	@$(PIP) -r requirements-dev.txt
	@touch $@

.venv-clients/installed: requirements-clients.txt | .venv/bin/python
	@.venv/bin/python -m venv --clear .venv-clients
	@.venv-clients/bin/python -m pip --disable-pip-version-check install --quiet -r requirements-clients.txt
	@touch $@

$(JAVASCRIPT)/installed: tests/clients-js/package.json tests/clients-js/package-lock.json
	@npm ci --prefix tests/clients-js --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

.venv-stores/installed: requirements-stores.txt | .venv/bin/python
	@.venv/bin/python -m venv --clear .venv-stores
	@.venv-stores/bin/python -m pip --disable-pip-version-check install --quiet -r requirements-stores.txt
	@touch $@

.venv/installed-bench: benchmarks/requirements.txt .venv/installed-dev
	@$(PIP) -r benchmarks/requirements.txt
	@touch $@

# As for .venv: the CPU build of torch first, which then satisfies the requirements.
.bench/%/installed: benchmarks/peers/%.txt | .venv/bin/python
	@echo "Installing $*, which the service is measured beside."
	@.venv/bin/python -m venv --clear .bench/$*
	@! grep -q ^torch $< || .bench/$*/bin/python -m pip --disable-pip-version-check install --quiet \
	--extra-index-url $(CPU_INDEX) "$$(grep ^torch $<)+cpu"
	@.bench/$*/bin/python -m pip --disable-pip-version-check install --quiet -r $<
	@touch $@
