# `make demo` and `make test` do all of their own set-up; `make help` lists the rest.

VENV := .venv
BIN := $(VENV)/bin
# Every command sees this project's Python first, and a Java that Spark can run on.
RUN = JAVA_HOME="$$(sh setup-java.sh)" && export JAVA_HOME PATH="$(CURDIR)/$(BIN):$$PATH" &&
SCALE ?= small

.DEFAULT_GOAL := help
.PHONY: help demo demo-aws archive test check lint bench notebook sql clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.ready ## run the job on the sample data and show the tables it makes
	@sh data/unpack-local.sh
	@$(RUN) python etl.py --show 3 && python -m exploration.report_page

demo-aws: $(VENV)/.ready-jars ## tour of the four AWS scripts on an emulated AWS: no account, no cost
	@$(RUN) python -m tests.demo_aws

archive: $(VENV)/.ready-archive ## have each later run take 4 s less; the tests do it as well

test: $(VENV)/.ready-jars $(VENV)/.ready-archive ## run all tests
	@$(RUN) python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.ready-dev ## check format, style and types
	@$(RUN) ruff format --check . && ruff check . && mypy

check: lint test ## all that decides whether a change may land

bench: $(VENV)/.ready-dev $(VENV)/.ready-archive ## time the job beside others: make bench SCALE=small|medium|large
	@$(RUN) python tests/bench/bench.py --scale $(SCALE) --runs 3

notebook: $(VENV)/.ready-dev ## open the notebooks on the lake that make demo made
	@$(RUN) jupyter lab exploration

sql: $(VENV)/.ready ## write sql/ anew from tables.py, after a change there
	@$(RUN) python -m aws.redshift_sql

clean: ## remove all that running the project has made, but for the environment
	rm -rf output data/song_data data/log_data bench-results .cache spark-warehouse
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.ready: requirements.txt setup-venv.sh
	@sh setup-venv.sh $(VENV) requirements.txt && touch $@

$(VENV)/.ready-archive: setup-archive.sh $(VENV)/.ready
	@$(RUN) sh setup-archive.sh $(VENV) && touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	@sh setup-venv.sh $(VENV) requirements-dev.txt && touch $@

$(VENV)/.ready-jars: tests/fetch_jars.py $(VENV)/.ready-dev
	@$(RUN) python -m tests.fetch_jars && touch $@
