# The two commands: `make demo` and `make test`. Each makes .venv when it is missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test regress formal synthesis venv clean
venv: $(STAMP)
$(STAMP): pyproject.toml
	@echo "== making $(VENV) and installing NeuroFlex with its tools (about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

demo: venv
	@$(BIN)/neuroflex demo --output build/demo

test: venv
	@echo "== running the tests"
	@$(BIN)/python -m pytest -n 2 -m "not long and not formal"

regress: venv
	@$(BIN)/python -m pytest -n 2 -m long

formal: venv
	@$(BIN)/python -m pytest -n 2 -m formal

synthesis: venv
	@$(BIN)/python scripts/resources.py

clean:
	rm -rf build
