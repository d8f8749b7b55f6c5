# make demo   real speech and a real photo through the bundled models, with a table and a report
# make test   the one check: format, lint, types, tests
# make bench  speed against EnCodec and vector-quantize-pytorch, in ratios; quantizers, training, streaming, images, priors
# make peers  `photo` beside compressai's hyperprior, in an environment of its own: it holds NumPy below 2
# Each makes .venv when it is missing, with `PYTHON` (3.10 to 3.13).

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test format lint types tests bench peers

demo: .venv/demo
	$(BIN)/python demo/demo.py

test: format lint types tests

format: .venv/test
	$(BIN)/ruff format --check .

lint: .venv/test
	$(BIN)/ruff check .

# Type checkers cannot follow the package mapping: show them a folder in which sigtok/ is this one.
types: .venv/test
	@mkdir -p .venv/types && ln -sfn "$(CURDIR)" .venv/types/sigtok
	cd .venv/types && MYPYPATH=. ../bin/mypy --config-file ../../pyproject.toml --namespace-packages \
	  --explicit-package-bases -p sigtok.codecs -p sigtok.train -p sigtok.export

tests: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

bench: .venv/bench
	$(BIN)/python tests/benchmarks/speech.py
	$(BIN)/python -m tests.benchmarks.quantizers
	$(BIN)/python -m tests.benchmarks.training
	$(BIN)/python -m tests.benchmarks.streaming
	$(BIN)/python -m tests.benchmarks.image
	$(BIN)/python -m tests.benchmarks.rate_distortion
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.prior

peers: .venv/peers/done
	.venv/peers/bin/python -m tests.benchmarks.entropy
	.venv/peers/bin/python -m tests.benchmarks.rate_distortion $(PICTURES)

.venv/peers/done: .venv/python
	$(PYTHON) -m venv .venv/peers
	.venv/peers/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt compressai==1.2.8 --editable .
	touch $@

.venv/python:
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo: .venv/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

.venv/test: .venv/demo
	$(INSTALL) --editable ".[train,export,tokenize,ray,eval,dev]"
	$(INSTALL) --editable ".[eval-itu]" || echo "no compiler of C here: tests of PESQ are skipped"
	touch $@

.venv/bench: .venv/test
	$(INSTALL) encodec "vector-quantize-pytorch==1.32.*"
	touch $@
