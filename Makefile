# If .venv holds the packages for a GPU: gpu. Otherwise: cpu. `make repro REQUIREMENTS=gpu` makes a new .venv for a GPU.
REQUIREMENTS ?= $(if $(wildcard .venv/installed/gpu.txt),gpu,cpu)

export PYTHON
export PORT
export POOL ?= stance
JOBS ?= 1
MERGE ?= all
CHAT_PORT ?= 8501
RANK_PORT ?= 8502
# Two processes share the tests, a file at a time and in the order of tests/conftest.py.
WORKERS ?= 2
PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export VLLM_NO_USAGE_STATS := 1

# With it, Python does not find the packages of the folder that it is started in.
unexport PYTHONSAFEPATH
# DVC asks for the user's name, and a container's user id may have none.
export USER := $(or $(USER),$(shell id -un 2>/dev/null || id -u))
# A git hook has these in its environment; every git and DVC below finds its repository by its folder.
unexport GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_COMMON_DIR GIT_OBJECT_DIRECTORY GIT_PREFIX GIT_QUARANTINE_PATH

.DEFAULT_GOAL := help
.PHONY: help repro run profile preflight ui serve sweep pdf worker chat rank test test-fast soak check environment tools

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

repro: environment ## make the environment if there is none, then everything that is out of date, report included
	@git rev-parse --git-dir >/dev/null || { echo "DVC needs a git checkout, and git refuses this folder (its reason is above). If it is not a git checkout, clone the repository." >&2; exit 1; }
	@.venv/bin/python -m stance preflight
	@.venv/bin/dvc repro
	@.venv/bin/python -m stance summary

profile: environment ## write params.yaml for another profile: make profile NAME=breeze-7b
	@test -n "$(NAME)" || { echo "Which profile? For example: make profile NAME=breeze-7b" >&2; exit 2; }
	@.venv/bin/python -m stance profile "$(NAME)"

preflight: environment ## check parameters against data and machine, before anything expensive
	@.venv/bin/python -m stance preflight

ui: environment ## the Prefect server and its deployments until Ctrl+C: make ui, make ui PORT=4300
	@.venv/bin/python -m flows.server

serve: environment ## the model behind an OpenAI-style endpoint until Ctrl+C: make serve, make serve PORT=8100 RUN=NAME
	@.venv/bin/python -m stance serve $(if $(RUN),--run "$(RUN)")

run: environment ## one run in a workspace, which leaves this folder as it is: make run RATIO=0
	@test -n "$(RATIO)" || { echo "Which share of the pairs prefers support? For example: make run RATIO=0" >&2; exit 2; }
	@.venv/bin/python -m flows.align --ratio "$(RATIO)"

sweep: environment ## a grid of runs and the page that compares them: make sweep GRID=course JOBS=auto MERGE=best, or JOBS=pool
	@test -n "$(GRID)" || { echo "Which grid? One of: $(basename $(notdir $(wildcard grids/*.yaml)))" >&2; exit 2; }
	@.venv/bin/python -m flows.sweep "$(GRID)" --jobs "$(JOBS)" --merge "$(MERGE)"

pdf: environment ## settings and answers for the course: make pdf STUDENT=b09901000, of runs with RUNS="NAME NAME"
	@test -n "$(STUDENT)" || { echo "Whose? For example: make pdf STUDENT=b09901000" >&2; exit 2; }
	@.venv/bin/python -m stance pdf "$(STUDENT)" $(addprefix .runs/,$(RUNS))

worker: environment ## take runs from a Prefect server elsewhere: make worker POOL=stance, with PREFECT_API_URL
	@.venv/bin/python -m flows.worker

chat: environment ## a page in the browser to talk to what `make serve` serves: make chat, make chat CHAT_PORT=8600
	@requirements/install.sh requirements/chat.txt
	@.venv/bin/python -m stance chat "$(CHAT_PORT)"

rank: environment ## a page in the browser to rank sampled answers: make rank, make rank RANK_PORT=8600
	@requirements/install.sh requirements/chat.txt
	@.venv/bin/python -m stance rank "$(RANK_PORT)"

test: tools ## every test but the long ones; those that need a GPU skip themselves where there is none
	@.venv/bin/pytest $(PARALLEL)

test-fast: tools ## the tests that need no model, no server and no browser
	@.venv/bin/pytest $(PARALLEL) tests/unit

soak: tools ## the long tests and measurements; their figures are in docs/soak.md
	@.venv/bin/pytest tests/soak

check: tools ## ruff and mypy
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy

environment:
	@requirements/install.sh requirements/$(REQUIREMENTS).txt

tools: environment
	@requirements/install.sh requirements/dev.txt
	@requirements/install.sh requirements/chat.txt
