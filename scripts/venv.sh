# Go to the repository's root and make .venv hold the package with its `dev` extra; sourced by the other scripts.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! cmp -s pyproject.toml .venv/installed; then
    echo "Installing the package and what it needs into .venv (torch alone is some GB; a few minutes) ..."
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable ".[dev]"
    cp pyproject.toml .venv/installed
fi
