# `make demo` and `make test` do all of their own set-up; `make help` lists the rest.

VENV := .venv
BIN := $(VENV)/bin
SCALE ?= small
ARGS ?=

# Each of these would bring another Python, another Spark, or the settings of another cluster.
unexport PYTHONHOME PYTHONPATH PYSPARK_PYTHON PYSPARK_DRIVER_PYTHON PYSPARK_DRIVER_PYTHON_OPTS
unexport PYSPARK_SUBMIT_ARGS PYSPARK_GATEWAY_PORT PYSPARK_GATEWAY_SECRET MASTER
unexport SPARK_HOME SPARK_CONF_DIR SPARK_REMOTE SPARK_CONNECT_MODE_ENABLED
unexport HADOOP_CONF_DIR YARN_CONF_DIR
# Written to a file, what goes to stdout and what goes to stderr keep their order.
export PYTHONUNBUFFERED := 1

# Every command sees this project's Python first, and a Java that Spark runs on.
RUN = JAVA_HOME="$$(sh setup/java.sh $(VENV))" && export JAVA_HOME PATH="$(CURDIR)/$(BIN):$$PATH" &&
# What to do next where the command before it fails.
or_say = || { status=$$?; echo "make $@: $(1)" >&2; exit $$status; }

.DEFAULT_GOAL := help
.PHONY: help demo demo-aws test-quick test lint check bench docs notebook run clean announce-test

help: ## list the targets
	@echo "New here? make demo"
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.ready ## run the job on the sample data and show the tables it makes
	@$(RUN) sh data/unpack-local.sh && python etl.py --show 1 && python -m exploration.report_page \
		$(call or_say,fix what the line above names and run it again; make clean begins anew)

demo-aws: $(VENV)/.ready-jars ## tour of the four AWS scripts on an emulated AWS: no account, no cost
	@$(RUN) python -m tests.demo_aws \
		$(call or_say,fix what the lines above name and run it again; no AWS account was used)

run: $(VENV)/.ready ## run the job on your own data: make run ARGS="--output /tmp/lake" (ARGS=--help)
	@$(RUN) python etl.py $(ARGS) \
		$(call or_say,fix what the line above names and run it again; ARGS=--help lists the options)

test-quick: $(VENV)/.ready-dev $(VENV)/spark.jsa ## run the tests that need one Spark session at most
	@$(RUN) python -m pytest -n 2 -m quick \
		$(call or_say,to run one test: . $(BIN)/activate && python -m pytest FILE::TEST)

test: announce-test $(VENV)/.ready-jars $(VENV)/spark.jsa ## run all tests
	@$(RUN) python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
		$(call or_say,to run one test: . $(BIN)/activate && python -m pytest FILE::TEST)

announce-test:
	@test -e $(VENV)/.ready-jars && echo "make test: all tests, a quarter of an hour on two cores" || \
		echo "make test: downloads 0.9 GB of packages and jars, once, and takes half an hour on two cores"

lint: $(VENV)/.ready-dev ## check format, style and types
	@$(RUN) ruff format --check . && ruff check . && mypy \
		$(call or_say,ruff format . and ruff check --fix . fix most of it: . $(BIN)/activate first)

check: lint test ## all that decides whether a change may land

bench: $(VENV)/.ready-dev ## time the job beside others: make bench SCALE=small|medium|large
	@$(RUN) python tests/bench/bench.py --scale $(SCALE) --runs 3 && \
	python tests/bench/daily.py --scale $(SCALE) \
		$(call or_say,fix what the line above names and run it again)

docs: $(VENV)/.ready-dev ## write the generated parts of README.md and docs/
	@$(RUN) python -m cogapp -r --verbosity=1 README.md docs/*.md \
		$(call or_say,fix what the line above names and run it again)

notebook: $(VENV)/.ready-dev ## open the notebooks on the lake that make demo made
	@$(RUN) jupyter lab $$([ "$$(id -u)" != 0 ] || echo --allow-root) exploration \
		$(call or_say,fix what the lines above name and run it again)

clean: ## remove all that running the project has made, but for the environment
	rm -rf output data/song_data data/log_data bench-results .cache spark-warehouse
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.ready: requirements.txt setup/venv.sh setup/java.sh setup/steps.sh
	@STEP=1/3 sh setup/venv.sh $(VENV)
	@STEP=2/3 sh setup/java.sh $(VENV) >/dev/null
	@STEP=3/3 sh setup/venv.sh $(VENV) requirements.txt "340 MB, a minute or two" && touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	@sh setup/venv.sh $(VENV) requirements-dev.txt "160 MB, a minute or two" && touch $@

$(VENV)/.ready-jars: tests/fetch_jars.py $(VENV)/.ready-dev
	@$(RUN) python -m tests.fetch_jars && touch $@

# Where no archive can be made the tests run without one, and the next time it is tried again.
$(VENV)/spark.jsa: setup/archive.sh $(VENV)/.ready
	@$(RUN) sh setup/archive.sh $(VENV)
