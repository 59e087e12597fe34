# What the scripts share. `scripts/test` and `scripts/waggle` install `just` into .venv; .venv/bin/just runs these.

set positional-arguments

export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

# every check, then every test
test: lint types layers unit

# make .venv, if it is missing or stale
setup:
    scripts/setup

# style and likely mistakes
lint:
    ruff check .
    ruff format --check .

# mypy --strict
types:
    mypy

# who may import whom
layers:
    lint-imports

# tests, three at a time: many of them wait, and threads of one's linear algebra hold up the others; arguments go to pytest
unit *arguments:
    OPENBLAS_NUM_THREADS=1 pytest -rs -n 3 --dist worksteal "$@"

# a small swarm on this machine
demo *arguments:
    scripts/waggle demo "$@"

# write docs/statements.md from the types
statements:
    PYTHONPATH=scripts python -P -m statements_doc

# write docs/transitions.md from the transition tables
transitions:
    PYTHONPATH=scripts python -P -m transitions_doc

# mend style where it can be done by machine
tidy:
    ruff check --fix .
    ruff format .

# write requirements.lock from what is installed
lock:
    pip freeze --all --exclude-editable --exclude pip | sed 's/+cpu$//' > requirements.lock
