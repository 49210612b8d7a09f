"""Break the code on purpose and see a test fail: `python tests/mutants.py` rewrites the table in tests/README.md.

The breaks are lists in tests/breaks/. Each replaces one piece of text in a copy of the repository; the tests named must
then fail (pytest's exit code 1, not an error of collection, nor a hang). The unchanged copy must pass them.
`python tests/mutants.py WORDS` makes only the breaks with WORDS in their description, or of the area WORDS, and leaves
the table alone.
"""

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPIED = (
    "sage_timm",
    "tests",
    "scripts",
    "docs",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    ".gitignore",
)
LIMIT = 600  # seconds for the tests of one break


def load():
    """Return the breaks of all areas, (what, file, text, replacement, tests), by area."""
    paths = sorted((ROOT / "tests" / "breaks").glob("*.py"))
    return {path.stem: runpy.run_path(str(path))["MUTANTS"] for path in paths}


def run(tests, mutant=None):
    """Return pytest's exit code, None after `LIMIT`, and its last line, for a mutant or the unchanged code."""
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(folder, name))
        if mutant is not None:
            _, name, text, replacement, _ = mutant
            path = Path(folder, name)
            content = path.read_text()
            if content.count(text) != 1:
                return None, f"the text stands {content.count(text)} times in {name}"
            path.write_text(content.replace(text, replacement))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not network", *tests]
        command += ["-x"] if mutant else ["-n", "2"]
        environment = {**os.environ, "PYTHONPATH": folder, "HYPOTHESIS_PROFILE": "breaks" if mutant else "ci"}
        limit = LIMIT if mutant else None
        try:
            result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return None, f"no outcome within {LIMIT} s"
    failed = [line.split(" - ")[0] for line in result.stdout.splitlines() if line.startswith("FAILED")]
    last = failed[-1].split("::")[-1] if failed else (result.stdout.strip().splitlines() or ["no output"])[-1]
    return result.returncode, last


def main():
    """Make the breaks and print a line for each."""
    words, areas = " ".join(sys.argv[1:]), load()
    chosen = [m for area, mutants in areas.items() for m in mutants if words in m[0] or words == area]
    if not chosen:
        sys.exit(f"no break has {words!r} in its description, and no area is called so")
    if not words:
        code, line = run(sorted({mutant[4] for mutant in chosen}))
        if code != 0:
            sys.exit(f"the unchanged code fails: {line}")
    rows, missed = [], 0
    with ThreadPoolExecutor(2) as pool:
        outcomes = pool.map(lambda mutant: run([mutant[4]], mutant), chosen)
        for (what, name, *_), (code, line) in zip(chosen, outcomes, strict=True):
            rows.append(f"| {what} | `{name}` | {f'`{line}`' if code == 1 else f'**not seen** ({line})'} |")
            print(rows[-1], flush=True)
            missed += code != 1
    if not words:
        readme = ROOT / "tests" / "README.md"
        head = readme.read_text().split("| broken |")[0]
        readme.write_text(head + "| broken | in | seen by |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    print(f"{len(rows) - missed} of {len(rows)} breaks seen")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
