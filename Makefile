# Every target sets itself up: .venv is made on first use and refreshed when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: install demo serve-demo test test-slow test-fast smoke check bench study study-full paper clean
install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	# uv installs in seconds from its own cache; where it is out of reach, pip does it from pip's. Compiled once, imports are quick.
	($(BIN)/python -m pip install --quiet uv && $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev]') \
	    || $(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/rexnet train digits --output runs/demo --overwrite
	$(BIN)/rexnet validate runs/demo/best.pt digits
	$(BIN)/rexnet predict runs/demo/best.pt runs/demo/samples
	@echo "Next, with your own folder of images (one sub-folder a class): $(BIN)/rexnet train PATH/TO/FOLDER"

# Open the address that it logs in a browser; Ctrl-C stops it.
serve-demo: $(INSTALLED)
	test -f runs/demo/best.pt || $(BIN)/rexnet train digits --output runs/demo --overwrite
	$(BIN)/rexnet serve runs/demo

# ONNX Runtime and OpenVINO bring thread pools of their own: a process that has run them all once crashed in a training.
ENGINE_TESTS := tests/deploy tests/engines tests/serve tests/detection/test_export.py
PYTEST := $(BIN)/python -m pytest -n 2
# What takes ten seconds and more is marked slow and runs afterwards; the inner loop skips what takes a second, too.
test: $(INSTALLED)
	$(PYTEST) -m 'not slow' $(addprefix --ignore=,$(ENGINE_TESTS))
	$(PYTEST) -m 'not slow' $(wildcard $(ENGINE_TESTS))

test-slow: $(INSTALLED)
	$(PYTEST) -m slow $(addprefix --ignore=,$(ENGINE_TESTS))
	$(PYTEST) -m slow $(wildcard $(ENGINE_TESTS))

test-fast: $(INSTALLED)
	$(PYTEST) -m 'not slow and not seconds' $(addprefix --ignore=,$(ENGINE_TESTS))

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m build --outdir build/dist .

# make smoke PYTHON=python3.13 VENV=.venv-3.13: the demo in short, recorded with the versions it ran under.
smoke: $(INSTALLED)
	$(BIN)/python benchmarks/smoke.py

bench: $(INSTALLED)
	$(BIN)/python benchmarks/throughput.py

# Both go on where they were stopped; study took a minute on two idle cores when measured once (no row), study-full hours, and days without a GPU.
study: $(INSTALLED)
	$(BIN)/rexnet study rank --networks 100 --processes 2 --output runs/study
	$(BIN)/rexnet study depth --networks 100 --processes 2 --output runs/study/depth
	$(BIN)/rexnet study spectra rexnet_100 timm/mobilenetv2_100 --data digits --images 200 --image-size 64 --output runs/study/spectra
	$(BIN)/rexnet study factors digits --untrained --scale 0.1 --output runs/study/factors

# The paper's set, downloaded unless it is at hand; make study-full DATA=PATH takes another.
DATA ?= torchvision/cifar100
study-full: $(INSTALLED)
	$(BIN)/rexnet study rank --networks 10000 --processes -1 --output runs/study-full
	$(BIN)/rexnet study depth --networks 10000 --processes -1 --output runs/study-full/depth
	$(BIN)/rexnet study spectra rexnet_100 timm/mobilenetv2_100 --pretrained --untrained-too --data $(DATA) --output runs/study-full/spectra
	$(BIN)/rexnet study factors $(DATA) --output runs/study-full/factors

# Renders every table from results/ and prints each claim of the paper: published, ours, residual, verdict, command.
paper: $(INSTALLED)
	$(BIN)/python benchmarks/render.py
	$(BIN)/python benchmarks/paper_claims.py

clean:
	rm -rf $(VENV) build
