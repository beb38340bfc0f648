# Needs CPython 3.11 or newer, pip and make; the rest is installed into .tools and .venv, here.

PYTHON ?= python3
BIN := .venv/bin
UV := .tools/bin/uv
STAMP := .venv/.synced

export UV_PROJECT_ENVIRONMENT = .venv
export UV_PYTHON_DOWNLOADS = never
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH CONDA_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV

.DEFAULT_GOAL := demo
.PHONY: setup demo compare claims clients engines gateways peers test test-fast test-engines lint format clean

setup: $(STAMP)

demo: $(STAMP)
	@$(BIN)/polyslo demo

compare: $(STAMP)
	@$(BIN)/polyslo compare --html compare.html

# Three quarters of an hour on two cores; goes on where it was stopped. Measurements of real GPUs come with a package of 80 MB.
claims: $(STAMP)
	@$(UV) sync --quiet --frozen --inexact --group silicon
	@$(BIN)/polyslo claims

# Other people's clients against the gateway, each in an environment of its own under ~/.cache/polyslo (3 GB).
clients: $(STAMP)
	@$(BIN)/python tests/clients/environments.py --uv $(UV) clients
	@POLYSLO_CLIENTS=1 $(BIN)/pytest -rs tests/clients

# The gateways that ours is measured beside (1 GB there; HAProxy is the system's), then all of them in one run.
# With Envoy among them, tests/clients/test_envoy.py is run.
peers: $(STAMP)
	@$(BIN)/python tests/clients/environments.py --uv $(UV) peers

gateways: peers
	@$(BIN)/python benchmarks/gateways

# vLLM and SGLang for CPUs and small models, into ~/.cache/polyslo/engines: 4.6 GB, a few minutes, once.
engines: $(STAMP)
	@$(BIN)/python tests/real_engines/install.py --uv $(UV)

# The first run compiles; doing that once here keeps two test processes from doing it twice.
test test-fast: $(STAMP)
	@$(BIN)/python -c "from polyslo.sim.warmup import warm_up; warm_up()"
	@$(BIN)/python -c "from polyslo.gateway.warmup import warm_up; warm_up()"
	@$(BIN)/pytest -n 2 --ignore tests/real_engines $(if $(filter test-fast,$@),-m "not slow")
	@$(if $(filter test-fast,$@),,$(MAKE) -s test-engines)

# Real engines take both cores, so these tests come alone. POLYSLO_SKIP_ENGINES=1 leaves them out.
test-engines: $(STAMP)
	@$(BIN)/python tests/real_engines/install.py --uv $(UV) --if-possible
	@$(BIN)/python tests/real_engines/sglang_environment.py
	@$(BIN)/pytest -n 0 -rs tests/real_engines

lint: $(STAMP)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@log=$$($(BIN)/lint-imports 2>&1) || { echo "$$log"; exit 1; }

format: $(STAMP)
	@$(BIN)/ruff check --quiet --fix
	@$(BIN)/ruff format --quiet

clean:
	rm -rf .venv .tools .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf dist build compare.html .claims
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv makes .venv by itself: Debian's `python3 -m venv` fails where the package python3-venv is missing.
$(STAMP): pyproject.toml uv.lock | $(UV)
	@echo "setup: installing the locked dependencies into .venv"
	@$(UV) sync --quiet --frozen --compile-bytecode --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
	@touch $@

# uv lives apart from .venv, where `uv sync` removes whatever the lock file does not name.
$(UV):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("polyslo needs Python 3.11 or newer, this is %d.%d; set PYTHON=python3.11" % sys.version_info[:2])'
	@echo "setup: installing uv into .tools"
	@$(PYTHON) -m pip install --quiet --target .tools "uv>=0.5,<1"
