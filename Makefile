# Each target sets up what it needs first; where that is done already, it costs a fraction of a second.
PYTHON ?= python3
VENV := .venv/bin/python
BOOTSTRAP := $(PYTHON) tools/bootstrap_env.py

COMPARE := $(VENV) -m megacontext.evaluation.compare --jobs 2
RESULTS := artifacts/results

.PHONY: help chat test published lint format tree env model corpus lock demo tiny-gpt2 faults bench bench-quick tune

help: ## say what there is
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /make \1\t/' | expand -t 16

chat: ## talk to the demo model through a budgeted memory
	@$(BOOTSTRAP) --only env --extras none >&2 && $(BOOTSTRAP) --only corpus --only model >&2
	@$(VENV) -m nanochat.chat --config configs/megacontext_demo.yaml

test: env model corpus tiny-gpt2 ## run the whole test suite
	$(VENV) -m pytest -q

published: env model corpus ## other papers' small results, tried on the demo model: about a quarter of an hour
	$(VENV) -m pytest -q -s -m minutes

lint: env ## linter, formatter, type checker
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	$(VENV) -m mypy

format: env ## put every file into the house format
	$(VENV) -m ruff check --fix .
	$(VENV) -m ruff format .

tree: ## write the README's tree anew from the files
	@$(PYTHON) -m tools.readme_tree

env: ## the environment in .venv, with the development tools
	@$(BOOTSTRAP) --only env

model: ## the demo model in artifacts/models
	@$(BOOTSTRAP) --only model

corpus: ## the sample corpus in artifacts/corpus
	@$(BOOTSTRAP) --only corpus

tiny-gpt2: ## the legacy demo's model, or a made-up one of its shape
	@$(BOOTSTRAP) --only tiny-gpt2

demo: env corpus tiny-gpt2 ## the legacy demo: a tiny GPT-2 with a memory
	@$(VENV) -m tools.decode_demo

faults: env ## the fault programme at ten times CI's figures
	$(VENV) -m tools.faults --scale 10

# Times are of two free cores, from the processor time of single episodes. 69 episodes of 2,000 tokens.
bench-quick: env model corpus ## a small comparison of memories: about 6 minutes
	@rm -f $(RESULTS)/bench_quick.jsonl
	$(COMPARE) --config configs/compare/bench_quick.yaml --out $(RESULTS)/bench_quick.jsonl
	$(VENV) -m megacontext.evaluation.report $(RESULTS)/bench_quick.jsonl --out $(RESULTS)/bench_quick

# 3,400 episodes of 6,000 tokens and more; stopped, it goes on where it was.
bench: env model corpus ## every memory on every task: about 15 hours, a first whole table after 5
	$(COMPARE) --config configs/compare/bench.yaml --out $(RESULTS)/bench.jsonl --resume
	$(COMPARE) --config configs/compare/parts.yaml --out $(RESULTS)/parts.jsonl --resume
	$(VENV) -m megacontext.evaluation.report $(RESULTS)/bench.jsonl $(RESULTS)/parts.jsonl --out $(RESULTS)/bench

tune: env model corpus ## choose every method's settings on the development split: about three hours
	$(COMPARE) --tune --out $(RESULTS)/tuning.jsonl --resume

lock: env ## write requirements/*.txt anew, keeping the versions that fit
	$(VENV) -m pip install --quiet uv
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(VENV) tools/lock_requirements.py
