# Everything a checkout needs. `make help` lists the targets; each says what it installs before it installs it.
#   VENV=DIR      the virtual environment (default .venv)
#   PYTHON=EXE    the interpreter it is made with (default: the first of python3.11, 3.12, 3.13, python3 that is one of those)
#   ARGS="..."    goes to the program: make demo ARGS="--once", make test ARGS="-k vault"
#   CORPUS=DIR    a folder of DICOM files whose copies the score seeds too
#   PEERS=0       do not install Debian packages for the tests

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
PEERS ?= 1
ARGS ?=
CORPUS ?=
OTHERS ?= $(VENV)/others
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --retries 10 --timeout 60
INSTALLED := $(VENV)/.installed
VIEWER_INSTALLED := $(VENV)/.viewer
PEER_PROGRAMS := storescu dciodvfy Orthanc chromium pdfsig
PEER_PACKAGES := dcmtk dicom3tools orthanc chromium poppler-utils
say = @printf '\033[1m%s\033[0m\n' $(1)

.PHONY: help install viewer viewer-if-possible peers peers-if-possible demo test lint bench docs fuzz torture deid-score others lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

install: $(INSTALLED) ## the virtual environment with everything from requirements/dev.lock, checked by hash

$(INSTALLED): requirements/dev.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11, 3.12 or 3.13 is needed; name one with PYTHON=..." >&2; exit 2; fi
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module; on Debian: apt-get install python3-venv" >&2; exit 2; }
	$(call say,"Installing: virtual environment $(VENV) with the packages of requirements/dev.lock (about 1 GB, checked by hash)")
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --require-hashes --only-binary :all: -r requirements/dev.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@$(PIP) check
	@touch $@

viewer: $(VIEWER_INSTALLED) ## the DICOM viewer, from the npm registry, into viewer/dist and the environment (needs node and npm)

$(VIEWER_INSTALLED): $(INSTALLED) $(wildcard viewer/*.py viewer/*.js viewer/*.css viewer/*.json viewer/*.toml)
	@test -f viewer/build.py || { echo "viewer/build.py is missing from this checkout" >&2; exit 2; }
	@command -v npm >/dev/null || { echo "the viewer needs node and npm; on Debian: apt-get install nodejs npm" >&2; exit 2; }
	$(call say,"Building: the viewer into viewer/dist (downloads OHIF from the npm registry)")
	@$(BIN)/python viewer/build.py --out viewer/dist
	@$(PIP) install --quiet --no-deps --no-build-isolation --force-reinstall ./viewer
	@rm -rf viewer/build viewer/*.egg-info
	@touch $@

viewer-if-possible: $(INSTALLED)
	@$(MAKE) viewer || echo "Going on without the viewer: the reading page says how to get it. Everything else works."

peers: ## the programs the interoperability tests talk to, by apt-get (root or password-less sudo)
	@missing=$$(PATH="$$PATH:/usr/sbin"; for p in $(PEER_PROGRAMS); do command -v "$$p" >/dev/null || echo "$$p"; done | xargs); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	command -v apt-get >/dev/null || { echo "missing: $$missing; install the equivalents of: $(PEER_PACKAGES)" >&2; exit 2; }; \
	as_root=; if [ "$$(id -u)" != 0 ]; then as_root="sudo -n"; \
		sudo -n true 2>/dev/null || { echo "missing: $$missing; run: sudo apt-get install $(PEER_PACKAGES)" >&2; exit 2; }; fi; \
	printf '\033[1m%s\033[0m\n' "Installing with apt-get, for the tests: $(PEER_PACKAGES) (Debian may start an orthanc service; the tests do not need it)"; \
	$$as_root apt-get -qq -o Acquire::Retries=5 update </dev/null; \
	$$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=5 -o Dpkg::Use-Pty=0 \
		install -y --no-install-recommends $(PEER_PACKAGES) </dev/null >/dev/null

peers-if-possible:
	@[ "$(PEERS)" = 1 ] && $(MAKE) peers || echo "Going on without them: the tests that need one are skipped, each by name."

demo: $(INSTALLED) viewer-if-possible ## two hospitals, five readers and sample studies on this machine; prints addresses and logins
	$(call say,"Starting: readgate demo $(ARGS)")
	@$(BIN)/readgate demo $(ARGS)

test: $(INSTALLED) viewer-if-possible peers-if-possible ## the whole test suite except torture
	@$(BIN)/python -m pytest -m "not torture" $(ARGS)

lint: $(INSTALLED) ## ruff, and mypy --strict on the five packages
	@$(BIN)/ruff check .
	@$(BIN)/mypy

docs: $(INSTALLED) ## check the documents as code is checked: links, commands, the table of the nine steps
	@$(BIN)/python -m pytest -q tests/test_docs.py tests/test_architecture.py $(ARGS)

bench: $(INSTALLED) ## measurements (bench/); prints numbers, judges nothing
	@test -f bench/__main__.py || { echo "there is no bench/__main__.py in this checkout" >&2; exit 2; }
	@$(BIN)/python -m bench $(ARGS)

fuzz: $(INSTALLED) ## the property tests with many more examples (READGATE_FUZZ_EXAMPLES, default 2000 each)
	@$(BIN)/python -m pytest -p tests.fuzzing -m "hypothesis and not torture" --timeout 0 $(ARGS)

torture: $(INSTALLED) ## kill -9, full disks and torn writes, again and again
	@$(BIN)/python -m pytest -m torture --timeout 0 $(ARGS); code=$$?; exit $$code

deid-score: $(INSTALLED) ## plant identities, de-identify, count what is left; CORPUS=DIR adds its files, `make others` other tools
	@$(BIN)/python -m bench.deid_score $(if $(CORPUS),--corpus "$(CORPUS)") \
		$(if $(wildcard $(OTHERS)/bin/python),--others $(OTHERS)/bin/python) $(ARGS)

others: $(INSTALLED) ## dicom-anonymizer and deid, in an environment of their own, for the score
	$(call say,"Installing: dicom-anonymizer and deid into $(OTHERS)")
	@test -x $(OTHERS)/bin/python || $(BIN)/python -m venv $(OTHERS)
	@$(OTHERS)/bin/python -m pip --disable-pip-version-check --no-input install --quiet dicom-anonymizer==2.1.0 deid==0.4.13

lock: $(INSTALLED) ## resolve requirements/*.lock anew from pyproject.toml (needs a package registry)
	@compile="$(BIN)/uv --quiet pip compile pyproject.toml --generate-hashes --no-emit-index-url --no-annotate --universal --python-version 3.11 --upgrade"; \
	export UV_CUSTOM_COMPILE_COMMAND="make lock"; \
	$$compile --extra all --extra dev --output-file requirements/dev.lock; \
	$$compile --extra all --constraint requirements/dev.lock --output-file requirements/all.lock; \
	$$compile --constraint requirements/dev.lock --output-file requirements/base.lock; \
	echo "setuptools>=77" | $${compile/pyproject.toml/-} --constraint requirements/dev.lock --output-file requirements/build.lock

clean: ## remove what make made, except demo data
	rm -rf $(VENV) viewer/dist viewer/build viewer/node_modules viewer/*.egg-info build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
