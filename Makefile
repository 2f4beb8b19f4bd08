# Everything runs in a virtual environment of its own; the first call makes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-oldest test-pythons parity fuzz docs lint bench bench-quick validation gpu gpu-test gpu-sanitize gpu-bench clean

demo: $(VENV)/.run
	@$(BIN)/gpucoron demo

test: $(VENV)/.dev
	$(BIN)/python -m tests.tools.peers
	$(BIN)/python -m pytest -n auto

# the oldest versions that pyproject.toml admits, in an environment of their own, against results of the newest: 5 minutes
test-oldest: $(VENV)/.dev
	$(BIN)/python -m tests.tools.oldest_versions

# sdist and wheel, and the wheel on every other supported Python that is found: 3 minutes
test-pythons: $(VENV)/.dev
	$(BIN)/python -m tests.tools.other_pythons $(if $(CI),--require)

# all cases of the matrix against the installed jwst, and the page of the results
parity: $(VENV)/.dev
	$(BIN)/python -m pytest tests/pipeline/test_parity.py -n auto --full-parity --parity-page docs/parity.md

# N drawn cases beside jwst, N damaged files; what is done is counted also when it is stopped. SAVE=--save keeps the counts
N ?= 2000
fuzz: $(VENV)/.dev
	rm -f $(VENV)/fuzz.jsonl
	-$(BIN)/python -m pytest tests/fuzz -n auto --fuzz $(N) --outcomes $(VENV)/fuzz.jsonl
	$(BIN)/python -m tests.tools.fuzz_summary $(VENV)/fuzz.jsonl $(SAVE)

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# About an hour on two quiet cores; the exposures are simulated once. The figures of the README follow the results.
bench: BENCH := $(BIN)/python benchmarks
bench: $(VENV)/.dev
	mkdir -p $(VENV)/bench
	$(BENCH)/bench_engine.py --save --folder $(VENV)/bench
	$(BENCH)/bench_custom.py --save
	$(BENCH)/bench_optional.py --save --folder $(VENV)/bench
	$(BENCH)/bench_end_to_end.py --save --folder $(VENV)/bench
	$(BENCH)/bench_large.py --save --folder $(VENV)/bench
	$(BENCH)/bench_batch.py --save --folder $(VENV)/bench/batch
	$(BENCH)/bench_programme.py --save --folder $(VENV)/bench/programme
	$(BENCH)/bench_start.py --repeat 9 --save --folder $(VENV)/bench
	$(BENCH)/bench_memory.py --save --folder $(VENV)/bench
	$(BIN)/python -m pytest benchmarks/test_steps.py -q --benchmark-columns=min,median,rounds --benchmark-sort=name
	$(BIN)/python docs/readme_tables.py
	$(BENCH)/goals.py

# a minute, for the eye: tells what has lost a fifth against jwst since the results that were kept
bench-quick: $(VENV)/.dev
	$(BIN)/python benchmarks/bench_engine.py --cases nircam-small miri-small --no-memory --no-1overf

# Against the truth of simulations: an hour or more. SCENES=FILE.npz adds the observed scenes of companion_noise, which
# are not in the repository, and takes longer. QUICK=--quick for a rehearsal that leaves the results alone.
validation: $(VENV)/.dev
	$(BIN)/python benchmarks/validation $(if $(SCENES),--scenes $(SCENES)) $(if $(QUICK),--quick --results $(VENV)/validation --page $(VENV)/validation/page.md)

# On a machine with a GPU, by the Python that has CuPy there; nothing is installed. Nine minutes at most; the figures go
# to OUT. The three targets below it take as long as they need.
OUT ?= benchmarks/results

gpu:
	$(PYTHON) benchmarks/first_contact.py --output $(OUT)

gpu-test gpu-sanitize gpu-bench: export PYTHONPATH := $(CURDIR):$(PYTHONPATH)

# several at a time where pytest-xdist is there
gpu-test:
	$(PYTHON) -m pytest --require-gpu $$($(PYTHON) -c 'import xdist; print("-n 4")' 2>/dev/null)

gpu-sanitize:
	$(PYTHON) -m tests.tools.sanitize_gpu

gpu-bench:
	$(PYTHON) benchmarks/bench_gpu.py

clean:
	rm -rf $(VENV) docs/_build demo

# Only errors are printed: the warnings of pip concern the configuration of the machine.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable

$(VENV)/.run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gpucoron needs Python 3.11 or newer; try make PYTHON=python3.12")'
	@echo "installing gpucoron and its dependencies into $(VENV); this takes a few minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) .
	@touch $@

$(VENV)/.dev: $(VENV)/.run pyproject.toml
	@echo "installing what tests and documentation need into $(VENV)"
	@$(PIP_INSTALL) '.[dev,docs]'
	@touch $@
