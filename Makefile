# The two commands: `make demo` and `make test`. Each makes .venv when it is missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test regress formal synthesis venv pynq-venv clean
venv: $(STAMP)
$(STAMP): pyproject.toml
	@echo "== installing NeuroFlex and its tools into $(VENV): simulator, synthesis, numerics, test runner (a minute or two; docs/dependencies.md)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@rm -f $@
	@{ $(BIN)/pip install --disable-pip-version-check --progress-bar off -e '.[test]' && touch $@; } | awk '\
	    /^(Collecting|Processing) / { n = split($$2, part, "/"); print "   getting " part[n]; fflush() } \
	    /^Installing collected/ { print "   installing all of them ..."; fflush() } \
	    /^Successfully installed/ { print "   installed"; fflush() }'
	@test -e $@

demo: venv
	@echo "== the demonstration: a trained network becomes Verilog that equals its golden model (a few minutes the first time)"
	@$(BIN)/neuroflex demo --output build/demo

test: venv
	@echo "== the tests; each prints a dot"
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not long and not formal"

regress: venv
	@echo "== the long regressions: the same testbenches with more seeds and larger sizes"
	@$(BIN)/python -m pytest -n 2 -m long

formal: venv
	@echo "== the proofs"
	@$(BIN)/python -m pytest -n 2 -m formal

synthesis: venv
	@echo "== the table of resources"
	@$(BIN)/python scripts/resources.py

# PYNQ's own package, for one long test: it wants an older NumPy, and runs on the boards' older Python too.
PYNQ_PYTHON ?= $(PYTHON)
pynq-venv:
	@echo "== installing the package pynq into .venv-pynq (a few minutes)"
	@test -x .venv-pynq/bin/python || $(PYNQ_PYTHON) -m venv .venv-pynq
	@.venv-pynq/bin/pip install --quiet --disable-pip-version-check 'pynq==3.1.2' 'numpy<2' 'pycparser<3' setuptools wheel

clean:
	rm -rf build
