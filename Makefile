# `make help` lists what there is to do. Every verb sets up what it needs in .venv. demo, bench and gpu take ARGS="--option".

PYTHON ?= python3
# What pip installs as torch. On a plain machine its default build brings several GB of CUDA; to take the CPU build, give
# the index that has it: make setup TORCH="torch==2.13.0 --index-url URL"
TORCH ?= torch==2.13.0

BIN := .venv/bin
NATIVE := $(shell find csrc kernels -type f -not -name '*.py' 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-peers test-clients check gpu-proof gpu lint bench docs sanitize clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 11

setup: .venv/ready  ## make .venv with torch, everything else, and all native code

demo: .venv/engine  ## translate sentences the model has never seen, in both modes
	@$(BIN)/python -m janus_fast.demo $(ARGS)

test: .venv/ready  ## run all the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

# What a change most likely breaks: the operations against their definitions, the engine against torch, what the authors'
# code computed, Translator, training, the command line. Left out are, of these, the kernels for GPUs; conversion,
# checkpoints, recorded runs, processes, pictures, benchmarks, the corpus, and all that takes long.
CHECK := conformance ops update_mask engine decoding golden golden_decode translator training cli docs

check: .venv/ready  ## run the tests of what a change most likely breaks, in under 3 minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu" $(CHECK:%=tests/test_%.py)

test-peers: .venv/ready .venv-peers/ready  ## compare with other libraries, which it installs in .venv-peers
	.venv-peers/bin/python -m pytest -rs -m peers $$(grep -l 'mark\.peers' tests/*.py)

# The libraries that the tests marked peers stand beside; slimt has no wheels for later Pythons.
PEERS := ctranslate2==4.8.5 transformers==5.23.0 'ray[data]==2.60.0' pyyaml \
	'slimt==0.1.0; python_version < "3.12"'

# Programs that were written for CTranslate2, without what they need elsewhere.
CLIENTS := argostranslate==1.11.0 firefox-translations==0.1.4 hf-hub-ctranslate2==2.13.1 OpenNMT-py==3.5.1 \
	configargparse rapidfuzz pyonmttok sacremoses zstandard six

test-clients: .venv-peers/ready  ## run programs written for CTranslate2 with our interface in its place
	.venv-peers/bin/python -m pip install --quiet requests joblib click networkx
	.venv-peers/bin/python -m pip install --quiet --no-deps $(CLIENTS)
	.venv-peers/bin/python -m pytest -rs -m clients tests/test_clients.py

gpu-proof: .venv/ready  ## without a GPU, run the tests of the kernels for GPUs: interpreted, emulated, compiled, traced
	$(BIN)/python -m pytest -m gpu

gpu:  ## on a GPU, run its tests there, then time the operations beside PyTorch
	@nvidia-smi -L > /dev/null 2>&1 \
		|| { echo 'make gpu: no NVIDIA GPU is found here (nvidia-smi lists none); make gpu-proof needs none' >&2; exit 2; }
	@$(MAKE) --no-print-directory .venv/ready
	$(BIN)/python -m benchmarks gpu $(ARGS)

lint: .venv/ready  ## check style of Python and C++
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc kernels -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \
		| xargs -r $(BIN)/clang-format --dry-run -Werror

bench: .venv/ready  ## time the operations; ARGS=decode times whole decodes
	$(BIN)/python -m benchmarks $(ARGS)

docs: .venv/ready  ## make the API reference, build/docs/index.html, and the tables in docs/options.md
	$(BIN)/python docs/reference.py build/docs
	$(BIN)/python docs/reference.py options

# The engine's own build, beside the usual one; leaks are not looked for, since Python itself has some at its end.
SANITIZERS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined

sanitize: .venv/ready  ## run the engine's tests under AddressSanitizer and UndefinedBehaviorSanitizer
	mkdir -p build/sanitize
	cp -r janus_fast build/sanitize
	CXXFLAGS="$(SANITIZERS)" PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python setup.py --quiet build_ext \
		--build-lib build/sanitize --build-temp build/sanitize/objects
	LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 $(BIN)/python -m pytest -o pythonpath=build/sanitize tests/test_engine*.py

clean:  ## remove .venv and everything built
	rm -rf .venv .venv-peers build dist *.egg-info janus_fast/*.so .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo 'make: Python 3.10 or newer is needed; name one with: make PYTHON=python3.12' >&2; exit 1; }
	@command -v $${CXX:-c++} > /dev/null \
		|| { echo 'make: a C++ compiler is needed; install g++ 12 or newer (Debian, Ubuntu: apt-get install g++)' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null \
		|| { echo 'make: Python must have venv (Debian, Ubuntu: apt-get install python3-venv)' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet 'setuptools>=77' ninja pybind11
	@touch $@

.venv/torch: .venv/made
	$(BIN)/python -m pip install --quiet $(TORCH)
	@touch $@

# Decoding needs no torch; setup.py builds the operations, too, where torch is installed.
.venv/engine: .venv/made pyproject.toml setup.py $(NATIVE)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation -e .
	@touch $@

# Packages alone: what .venv has built serves the same torch here, and is found in the checkout.
.venv-peers/ready: .venv/made pyproject.toml
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet $(TORCH)
	.venv-peers/bin/python -m pip install --quiet numpy sentencepiece safetensors sacrebleu tqdm pytest $(PEERS)
	@touch $@

.venv/ready: .venv/torch pyproject.toml tools/corpus/pyproject.toml setup.py $(NATIVE)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation -e '.[dev]' -e ./tools/corpus
	@touch $@ .venv/engine
