# make train | test: from a fresh clone to a trained agent, or to a checked tree. PYTHON=python3.12 picks the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Processes that share the tests, a thread each. In the order of their files: few tests in a file may be the longest.
JOBS ?= 2

.PHONY: train test test-all lint types bench install clean

train: $(STAMP)
	$(BIN)/python -m rlgym agent=ppo env=CartPole-v1 $(ARGS)
	$(BIN)/python -m rlgym evaluate last episodes=100

test: lint types
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow and not gpu" $(ARGS)

test-all: lint types
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[bench]"
	$(BIN)/python -m pytest -q $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# make bench BENCH=pretrain ARGS="small --rounds 5": one of them, with words of its own
BENCH ?= ppo pretrain
bench: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[bench]"
	set -e; for name in $(BENCH); do $(BIN)/python benchmarks/$$name.py $(ARGS); done

install: $(STAMP)

# Runs again only when what it installs has changed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev,box2d,atari,minigrid,pettingzoo,finetune,lora,export,sweep]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
