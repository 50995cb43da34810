# One verb per habit; `make` alone lists them. Each makes .venv first, and installs only what is
# missing, so the second call starts at once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EVERYTHING := $(VENV)/.everything
PROTO := service/proto/inference

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check k8s-check drill fmt proto bench gpu-check gpu-wheels zoo-matrix image debian clean install everything

help: ## list the verbs
	@echo "make VERB, where VERB is one of"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## the main job on real data: train, convert, verify, serve, load, price
	@$(BIN)/farthing demo

test: $(INSTALLED) ## the tests; some 15 minutes on two cores
	@$(BIN)/python -m pytest -m "not slow and not gpu" --ignore=tests/torch

test-all: $(EVERYTHING) ## all tests with PyTorch, some 20 minutes; needs root, what `make debian` installs, and kubectl
	@$(BIN)/python -m pytest -m "not gpu"

check: $(INSTALLED) ## ruff and mypy strict, then the sizes of the modules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@git ls-files '*.py' | grep -v _pb2 | xargs wc -l | sort -rn | head -8

k8s-check: $(INSTALLED) ## render k8s/ with kubectl 1.27 or later, validate it, hold it against the server
	@$(BIN)/python -m tests.k8s
	@$(BIN)/python -m pytest -q tests/k8s

drill: $(INSTALLED) ## act out a rolling update of k8s/ with real servers under load: what fails, and p99; three minutes
	@$(BIN)/python -m tests.drill $(if $(JSON),--json $(JSON))

fmt: $(INSTALLED) ## format, and mend what ruff can mend
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

proto: $(INSTALLED) ## the stubs from inference.proto, in a descriptor pool of their own
	@$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. \
		$(PROTO).proto
	@sed -i 's/_descriptor_pool\.Default()/_descriptor_pool.DescriptorPool()/' $(PROTO)_pb2.py

# Suites that need PyTorch; who wants another, or mistypes one, should not wait for 2 GB.
HEAVY := int8 encoder pruned digits damaged conversion
bench: $(if $(filter $(HEAVY),$(or $(SUITE),$(HEAVY))),$(EVERYTHING),$(INSTALLED)) ## measure, print a table, append it to loadtests/bench/RESULTS.md; SUITE=NAME
	@$(BIN)/python -m loadtests.bench $(SUITE)

# Both on the bare Python: what is missing is said before anything is installed.
gpu-check: ## tests and a table on an NVIDIA GPU, into loadtests/bench/RESULTS-gpu.md; WHEELS=DIR asks no network
	@$(PYTHON) -m loadtests.bench.gpu $(if $(WHEELS),--wheels $(WHEELS)) $(OPTIONS)

gpu-wheels: ## fetch into WHEELS=DIR what gpu-check needs, for a machine without network; FOR=3.12 PART_MB=48
	@$(PYTHON) -m loadtests.bench.gpu.fetch --wheels $(or $(WHEELS),build/wheels) \
		$(if $(FOR),--for $(FOR)) $(if $(PART_MB),--part-mb $(PART_MB))

zoo-matrix: $(EVERYTHING) ## train, convert, serve and call the whole zoo; its table goes into README
	@$(BIN)/python -m tests.system.zoo_matrix $(NAMES)

image: ## build farthing:$(TARGET); TARGET=cpu, gpu, convert or loadtest; as root where there is no docker and no podman
	@.ci/image $(or $(TARGET),cpu)

# kubectl is not among them: Debian 12 has none that is new enough.
DEBIAN := buildah debian-archive-keyring debootstrap chromium chromium-driver prometheus nghttp2-client
debian: ## install, as root, the Debian packages that image, test-all and bench need; starts Prometheus where there is systemd
	@[ "$$(id -u)" = 0 ] || { echo "installing packages needs root: sudo make debian" >&2; exit 1; }
	@apt-get update -qq
	@apt-get install -qq --no-install-recommends $(DEBIAN)
	@command -v kubectl >/dev/null || echo "k8s-check and test-all also need kubectl 1.27 or later from PATH, which kubernetes.io tells how to install"

clean: ## remove what was built, the environment too
	@rm -rf $(VENV) .peers build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

install: $(INSTALLED) ## make .venv and install what is missing

everything: $(EVERYTHING) ## the same with PyTorch and transformers

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "farthing needs Python 3.11 or later: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "Python's venv module is missing: install the package python3-venv, then try again" >&2; \
		exit 1; }
	@echo "installing into $(VENV): about 2 GB, a minute or two"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--config-settings editable_mode=compat -e '.[demo,dev]'
	@touch $@

$(EVERYTHING): $(INSTALLED)
	@echo "adding PyTorch and transformers to $(VENV): a minute or two"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--config-settings editable_mode=compat -e '.[demo,torch,hf,dev]'
	@touch $@
