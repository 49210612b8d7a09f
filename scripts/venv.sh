# Go to the repository's root and set `python`: to $PYTHON where that is given, an environment that has the package with
# its extras; else to that of .venv, made to hold it with its `dev` extra. Sourced by the other scripts.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
if [ -z "${PYTHON:-}" ] && ! cmp -s pyproject.toml .venv/installed; then
    echo "Installing the package and what it needs into .venv (torch alone is some GB; a few minutes) ..."
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable ".[dev]"
    cp pyproject.toml .venv/installed
fi
