# `make help` lists the targets. PYTHON chooses the interpreter that .venv is made from.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# cmake and ninja of the venv come first, so that none need be installed on the machine.
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
FUZZ_S ?= 600
DOOR_S ?= 1800
PART ?=
ISSUE ?=
TLS ?=
# REDIS=skip leaves out the tests that need redis-server, and the summary says so.
REDIS ?=
export SIRA_TEST_REDIS := $(REDIS)
# Else each of the many processes that tests start compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

DEV := $(VENV)/.stamp-dev
NATIVE := $(VENV)/.stamp-native
NATIVE_FILES := CMakeLists.txt $(wildcard native/*.c native/*.h native/*.cmake)
PROTO_FILES = $(wildcard proto/sira/v1/*.proto)

.PHONY: help dev native check lint types unit test coverage redis-server native-test native-test-c \
        native-test-python proto proto-check lint-deploy bench demo fault soak fuzz conformance clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

dev: $(NATIVE) ## make .venv with Sira (editable), its tools and extras
	@echo "ready: $(VENV), $$($(PY) --version)"

$(PY):
	@missing=$$(PYTHON=$(PYTHON) .ci/prereq); [[ -z $$missing ]] || { \
	  echo "missing: $$missing; run: sudo apt-get install -y $${missing//>=3.11/}" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The lock keeps two calls at once from installing into each other.
$(DEV): pyproject.toml | $(PY)
	flock $(VENV)/.lock $(PY) -m pip install --quiet --use-pep517 -e '.[dev,demo,bench]'
	@touch $@

# Only what changed is compiled. The editable install finds the new file in its old place.
$(NATIVE): $(NATIVE_FILES) $(DEV)
	@mkdir -p build
	@exec 9>build/native.lock; flock 9; \
	$(IN_VENV) cmake -G Ninja -S . -B build/native -DCMAKE_BUILD_TYPE=Release \
	  -DPython_EXECUTABLE="$(CURDIR)/$(PY)" -DCMAKE_EXPORT_COMPILE_COMMANDS=ON >build/native.log \
	  || { cat build/native.log; exit 1; }; \
	$(IN_VENV) cmake --build build/native --target _native; \
	$(IN_VENV) cmake --install build/native \
	  --prefix "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("platlib"))')" >>build/native.log
	@touch $@

native: $(DEV) ## compile what changed in native/ and put it into .venv
	@$(MAKE) -W CMakeLists.txt $(NATIVE)

lint: $(DEV) ## ruff, and its format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

lint-deploy: $(NATIVE) ## deploy/: Dockerfile, compose, unit, alerts, dashboard
	$(PY) -m tests.deploy_lint

types: $(DEV) ## mypy; it says how many files it saw
	$(VENV)/bin/mypy

unit: $(NATIVE) ## the unit tests that take no servers and little time
	$(PY) -m pytest tests/unit -q -m "not slow and not integration"

check: lint types unit ## lint, types, unit tests: before each commit

redis-server:
	@[[ "$(REDIS)" == skip ]] || command -v redis-server >/dev/null || { echo \
	  "missing: redis-server; run: sudo apt-get install -y redis-server (or: make test REDIS=skip)" >&2; exit 1; }

# Files whole, three at a time, also on two cores: most of a test is waiting for the processes it
# has started. In the order of tests/conftest.py.
WHOLE := -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

test: redis-server $(NATIVE) ## the whole suite; REDIS=skip leaves redis-server out
	$(PY) $(WHOLE)

# Apart from `test`: counting lines doubles what tests that compute take.
coverage: redis-server $(NATIVE) ## the whole suite, and the lines that nothing ran
	$(PY) $(WHOLE) --cov --cov-report=term:skip-covered

native-test: native-test-c native-test-python ## C tests and Python unit tests under ASan and UBSan

native-test-c: $(DEV)
	$(IN_VENV) cmake -G Ninja -S . -B build/sanitize -DCMAKE_BUILD_TYPE=Debug -DSIRA_SANITIZE=ON \
	  -DSIRA_TESTS=ON -DPython_EXECUTABLE="$(CURDIR)/$(PY)" >/dev/null
	$(IN_VENV) cmake --build build/sanitize
	$(IN_VENV) ctest --test-dir build/sanitize --output-on-failure --no-tests=ignore

# A venv beside .venv: its own `sira`, a sanitized wheel; all else comes from .venv by a .pth file.
# libstdc++ is named too: loaded after ASan, gRPC's exceptions would be caught by nobody.
ASAN := build/asan-venv
native-test-python: $(DEV)
	[[ -x $(ASAN)/bin/python ]] || $(PY) -m venv --without-pip $(ASAN)
	@site() { "$$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }; \
	site $(PY) >"$$(site $(ASAN)/bin/python)/deps.pth"
	$(IN_VENV) $(PY) -m pip --python $(ASAN)/bin/python install --quiet --no-deps --no-build-isolation \
	  --force-reinstall --config-settings cmake.define.SIRA_SANITIZE=ON \
	  --config-settings cmake.build-type=Debug --config-settings install.strip=false .
	LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
	  $(ASAN)/bin/python -m pytest tests/unit -q -m "not slow and not integration" --timeout 600

# googleapis-common-protos brings google/rpc/*.proto; grpcio-tools brings google/protobuf.
PROTOC = $(PY) -m grpc_tools.protoc -I proto \
  -I "$$($(PY) -c 'import google.rpc.status_pb2 as m, pathlib; print(pathlib.Path(m.__file__).parents[2])')"

proto: $(DEV) ## write proto/sira/v1/*_pb2*.py again
	@$(MAKE) -s proto-into OUT=proto

.PHONY: proto-into
proto-into:
	$(if $(PROTO_FILES),$(PROTOC) --python_out=$(OUT) --pyi_out=$(OUT) --grpc_python_out=$(OUT) $(PROTO_FILES),@echo "no .proto files yet")

proto-check: $(DEV) ## fail when the committed files are not what `make proto` writes
	@rm -rf build/proto && mkdir -p build/proto/sira/v1
	@$(MAKE) -s proto-into OUT=build/proto
	@diff -r -x __pycache__ -x __init__.py -x '*.proto' build/proto/sira/v1 proto/sira/v1 \
	  || { echo "proto/sira/v1 is out of date; run: make proto" >&2; exit 1; }

bench: $(NATIVE) ## measure, all or ROW=name; read benches/README first
	$(PY) -m benches $(ROW)

demo: $(NATIVE) ## a gateway finds agents and calls them; one is killed; TLS=1: with TLS, tokens and rules
	$(PY) examples/demo/run.py $(if $(TLS),--tls)

fault: $(NATIVE) ## break things on purpose: ISSUE=bus|shm|registry
	$(PY) -m tests.fault --issue $(ISSUE)

soak: $(NATIVE) ## run for long; PART=flow|crowd|frames|door, DOOR_S=seconds of the last
	$(PY) -m tests.soak $(if $(PART),--part $(PART)) --door-s $(DOOR_S)

conformance: $(NATIVE) ## the contract, from outside
	$(PY) -m tests.conformance

fuzz: $(DEV) ## each fuzzer for FUZZ_S seconds; needs clang
	@command -v clang >/dev/null || { \
	  echo "missing: clang; run: sudo apt-get install -y clang libclang-rt-dev" >&2; exit 1; }
	CC=clang $(IN_VENV) cmake -G Ninja -S . -B build/fuzz -DCMAKE_BUILD_TYPE=Release -DSIRA_FUZZ=ON \
	  -DPython_EXECUTABLE="$(CURDIR)/$(PY)" >/dev/null
	$(IN_VENV) cmake --build build/fuzz --target fuzzers
	@for fuzzer in build/fuzz/*_fuzz; do [[ -x $$fuzzer ]] || { echo "no fuzzers yet"; break; }; \
	  name=$$(basename $$fuzzer _fuzz); mkdir -p build/corpus/$$name; echo "== $$name, $(FUZZ_S) s"; \
	  $$fuzzer -max_total_time=$(FUZZ_S) -print_final_stats=1 -artifact_prefix=build/corpus/ \
	    build/corpus/$$name $$([[ ! -d native/fuzz/corpus/$$name ]] || echo native/fuzz/corpus/$$name); done

clean: ## remove what was built; .venv goes too
	rm -rf build dist $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
