# Two commands are enough: `make demo` and `make test`. Each sets up what it needs in .venv.
PYTHON ?= python3
# A machine without a CUDA GPU gets this release first, so that nothing later pulls another build of torch.
# Where the default index has CUDA builds only, name a CPU index: make setup TORCH_FLAGS="--index-url ..."
TORCH ?= torch==2.13.0
TORCH_FLAGS ?=
BIN := .venv/bin

.PHONY: setup demo test test-slow test-device lowest campaign test-browser check-web check docs base format messages lock audit clean

PO := $(wildcard src/tsuika/locale/*/LC_MESSAGES/tsuika.po)

setup: .venv/.ready $(PO:.po=.mo)

%.mo: %.po .venv/.ready
	$(BIN)/python scripts/messages.py

.venv/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -c "import torch" 2>/dev/null || command -v nvidia-smi >/dev/null || $(BIN)/python -m pip install --quiet $(TORCH_FLAGS) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev,docs,heif]"
	touch $@

demo: setup
	$(BIN)/tsuika demo --out runs/demo

# One process a core with one thread each: threads of several processes on the same cores wait for one another.
# Compiled modules are kept whatever the surroundings say: each process, and each program that a test starts, would compile all.
test: setup
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-slow: setup
	$(BIN)/python -m pytest -m "slow and not browser"

# The contract suite elsewhere than on the CPU: `standin` refuses to mix devices and counts waits; or cuda, mps.
DEVICE ?= standin

test-device: setup
	$(BIN)/python -m pytest --device $(DEVICE) tests/methods/test_method_contract.py tests/training/test_waiting.py

# The suite with the oldest release of everything that `pyproject.toml` lets in.
lowest: setup
	$(BIN)/python -c "import uv" 2>/dev/null || $(BIN)/python -m pip install --quiet uv
	test -x build/lowest/bin/python || $(PYTHON) -m venv build/lowest
	$(BIN)/uv pip install --quiet --python build/lowest/bin/python --resolution lowest-direct $(TORCH_FLAGS) --editable ".[dev,heif]"
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= build/lowest/bin/python -m pytest --numprocesses auto --dist worksteal

# Wrong files of every kind, for so many minutes; SEED repeats one. What fails is kept in build/campaign.
MINUTES ?= 30
SEED ?= $(shell $(PYTHON) -c "import random; print(random.randrange(1, 10**6))")
EXAMPLES ?= 2000

campaign: setup
	OMP_NUM_THREADS=1 EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest --hypothesis-seed=$(SEED) tests/campaign/test_properties.py tests/campaign/test_found.py
	OMP_NUM_THREADS=1 SEED=$(SEED) MINUTES=$(MINUTES) $(BIN)/python -m pytest -s -m slow tests/campaign/test_campaign.py

# For those who work on the studio: types of its front end against what its routes take and answer, and its libraries
# against npm's. Needs npm.
check-web: setup
	mkdir -p build
	$(BIN)/python scripts/studio_schema.py > build/studio-api.json
	npx --yes openapi-typescript@7.13.0 build/studio-api.json --default-non-nullable false --output build/studio-api.d.ts
	npx --yes --package typescript@7.0.2 tsc -p scripts/jsconfig.json
	$(BIN)/python scripts/vendor_web.py

# The studio in Chromium (Debian: apt-get install chromium); axe-core comes from npm, for the tests alone.
AXE := axe-core-4.14.1

build/axe/package/axe.min.js:
	mkdir -p build/axe
	npm pack axe-core@4.14.1 --silent --pack-destination build/axe
	tar -xzf build/axe/$(AXE).tgz -C build/axe

test-browser: setup build/axe/package/axe.min.js
	$(BIN)/python -m pytest -s -m "browser" tests/studio

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) docs

# The documentation site in build/site, without a warning.
docs: setup
	$(BIN)/python scripts/site_pages.py build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The next base, made when the processor has nothing else to do; goes on from what build/base holds. Needs npm.
BASE_WORK ?= build/base

base: setup
	$(BIN)/python -c "import resvg_py" 2>/dev/null || $(BIN)/python -m pip install --quiet resvg-py
	$(BIN)/python scripts/make_base.py --work $(BASE_WORK) --background

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# English from the code into the catalogues; what is new there is to be translated by hand.
messages: setup
	$(BIN)/python scripts/messages.py --update
	$(BIN)/python scripts/troubleshooting.py

# What this environment has been built and tested with, release by release, but for torch, which is chosen above.
lock: setup
	$(BIN)/python -c "import uv" 2>/dev/null || $(BIN)/python -m pip install --quiet uv
	echo torch | $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --excludes /dev/stdin \
		--extra dev --extra docs --extra heif --no-annotate --custom-compile-command "make lock" \
		--output-file requirements/dev.lock pyproject.toml

# Whether a weakness is known of any of them. An unknown release is a failure, too: it has not been looked at.
audit: setup
	$(BIN)/python -c "import pip_audit" 2>/dev/null || $(BIN)/python -m pip install --quiet pip-audit
	mkdir -p build
	{ cat requirements/dev.lock; echo "$(TORCH)"; } > build/audited.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --progress-spinner off --requirement build/audited.txt

clean:
	rm -rf .venv runs build dist
