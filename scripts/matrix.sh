#!/usr/bin/env bash
# Build the wheel, install it into a fresh environment for each row of versions, and run the whole suite against it:
#   bash scripts/matrix.sh ["PYTHON TORCH TORCHVISION TIMM" ...]
# PYTHON is a command or a path; environments are made in .matrix/ and some GB each; a row ends as a line of .matrix/results.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
rows=("$@")
[ ${#rows[@]} -gt 0 ] || rows=("python3.10 2.6.0 0.21.0 1.0.16" "python3.13 2.15.0 0.29.2 1.0.31")

mkdir -p .matrix
if [ ! -x .matrix/build/bin/python ]; then
    python3 -m venv .matrix/build
    .matrix/build/bin/pip install --quiet --disable-pip-version-check build
fi
rm -rf .matrix/dist
.matrix/build/bin/python -m build --outdir .matrix/dist . > .matrix/build.log 2>&1 || { tail -20 .matrix/build.log; exit 1; }
wheel=$(ls "$PWD"/.matrix/dist/*.whl)
echo "built $(cd .matrix/dist && ls | tr '\n' ' ')"

check() {  # ENVIRONMENT PYTHON TORCH TORCHVISION TIMM: leaves the outcome in words
    local versions=("torch==$3" "torchvision==$4" "timm==$5") pip=("$1/bin/pip" install --quiet --disable-pip-version-check)
    outcome="could not be installed"
    "$2" -m venv --clear "$1" && "${pip[@]}" "${versions[@]}" "$wheel" || return 1
    outcome="fails without the extras"
    (cd "$1" && bin/python "$root/tests/smoke.py") || return 1
    outcome="the extras could not be installed"
    "${pip[@]}" "${versions[@]}" "$wheel[dev]" || return 1
    "$1/bin/pytest" -q -n 2 -p no:cacheprovider -m "not network" tests > "$1/pytest.log" 2>&1 && local good=0 || local good=1
    outcome=$(tail -1 "$1/pytest.log")
    return $good
}

failed=0
for row in "${rows[@]}"; do
    read -r python torch torchvision timm <<< "$row"
    check "$PWD/.matrix/$(basename "$python")-$torch-$timm" "$python" "$torch" "$torchvision" "$timm" || failed=1
    echo "| $(basename "$python") | $torch | $torchvision | $timm | ${outcome//=/} |" | tee -a .matrix/results.md
done
exit $failed
