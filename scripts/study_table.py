"""Tables and plots of runs of study.py, one table for each recipe in the file.

python scripts/study_table.py FILE [--against ARM] [--plot FILE]
"""

import argparse
import json
import statistics
import sys
import textwrap
from pathlib import Path

from study_arms import TIMM

SLACK = 1.02  # of mixup's seconds: what measuring them is good to
LOOKS = {"mask_sd": "sd of the mask", "moved": "moved %", "distance": "by px"}


def read(path: Path | None) -> list[dict]:
    """Read the runs of a file, one per line; none where there is no file. Other lines are said and left out."""
    runs = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines() if path and path.exists() else [], 1):
        try:
            run = json.loads(line)
            if not run.keys() >= {"arm", "seed", "recipe", "accuracy", "seconds", "checks"}:
                raise ValueError
            runs.append(run)
        except (AttributeError, ValueError):
            print(f"{path}: line {number} is no run of study.py and is left out", file=sys.stderr)
    return runs


def append(path: Path, run: dict) -> None:
    """Add a run to a file as a line of its own, also after a line that was cut off."""
    text = path.read_bytes() if path.exists() else b""
    with path.open("a") as file:
        file.write("\n" * (text != b"" and not text.endswith(b"\n")) + json.dumps(run) + "\n")


def difference(arm: dict, other: dict | None) -> str:
    """Say how far the runs (by seed) of two arms are apart on common seeds: mean ± standard error.

    Within two standard errors it is called none; of fewer than three seeds nothing is said.
    """
    gaps = [arm[seed]["accuracy"] - other[seed]["accuracy"] for seed in arm if seed in other] if other else []
    if len(gaps) < 3:
        return f"{statistics.mean(gaps):+.2f} on {len(gaps)}" if gaps else ""
    gap, error = statistics.mean(gaps), statistics.stdev(gaps) / len(gaps) ** 0.5
    return f"{gap:+.2f} ± {error:.2f}" + (" (none)" if abs(gap) <= 2 * error else "")


def table(runs: list[dict], against: str | None = None) -> str:
    """Make a Markdown table of the arms, the best first, each compared with `against`: timm's best where it is None."""
    arms = {}
    for run in runs:
        arms.setdefault(run["arm"], {})[run["seed"]] = run

    def values(arm: str, key: str) -> list:
        return [run[key] for run in arms[arm].values()]

    ranking = sorted(arms, key=lambda arm: -statistics.mean(values(arm, "accuracy")))
    timms = [arm for arm in ranking if arm.split(",")[0] in TIMM and "epochs=" not in arm]
    against = against or max(timms, key=lambda arm: len(arms[arm]), default=None)
    mean = statistics.mean(values("mixup", "seconds")) if "mixup" in arms else 0
    budget = {seed: SLACK * run["seconds"] for seed, run in arms.get("mixup", {}).items()}
    compared = f"against {against} ± s.e." if against else ""
    rows = [["arm", "seeds", "accuracy % ± sd", compared, "seconds", "best in mixup's time", *LOOKS.values()]]
    rows.append(["---"] * len(rows[0]))
    for arm in ranking:
        accuracy = values(arm, "accuracy")
        spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
        within = [
            max((accuracy for _, at, accuracy in run["checks"] if at <= budget.get(seed, SLACK * mean)), default=None)
            for seed, run in arms[arm].items()
        ]
        row = [
            arm,
            f"{len(accuracy)}",
            f"{statistics.mean(accuracy):.2f}{spread}",
            difference(arms[arm], arms.get(against)),
        ]
        row += [
            f"{statistics.mean(values(arm, 'seconds')):.0f}",
            "" if None in within else f"{statistics.mean(within):.2f}",
        ]
        looks = [[run.get(key) for run in arms[arm].values()] for key in LOOKS]
        rows.append(row + ["" if None in look else f"{statistics.mean(look):.3g}" for look in looks])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot(groups: dict[str, list[dict]], path: str) -> None:
    """Draw a panel for each group of runs, by its title: a dot for every run's accuracy, a bar at every arm's mean."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(groups), figsize=(7 * len(groups), 6), squeeze=False, layout="constrained")
    for axes, (title, runs) in zip(panels[0], groups.items(), strict=True):
        arms = {}
        for run in runs:
            arms.setdefault(run["arm"], []).append(run["accuracy"])
        ranking = sorted(arms, key=lambda arm: -statistics.mean(arms[arm]))
        for row, arm in enumerate(ranking):
            axes.plot(arms[arm], [row] * len(arms[arm]), "o", alpha=0.5)
            axes.plot(statistics.mean(arms[arm]), row, "k|", markersize=12)
        axes.set(
            yticks=range(len(arms)),
            yticklabels=ranking,
            title=title,
            xlabel="accuracy %: a dot per seed, a bar at the mean",
        )
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=80)


def describe(recipe: dict) -> str:
    """Say what runs have in common; what is not set is left out."""
    return ", ".join(f"{key} {value}" for key, value in recipe.items() if value is not None)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, metavar="FILE")
    parser.add_argument("--against", metavar="ARM", help="compare with this arm (default: timm's best)")
    parser.add_argument("--plot", metavar="FILE", help="draw the accuracies of all recipes")
    args = parser.parse_args(argv)
    recipes = {}
    if not args.json.is_file():
        parser.error(f"FILE must be a file that study.py wrote, got {args.json}")
    for run in read(args.json):
        recipes.setdefault(json.dumps(run["recipe"]), []).append(run)
    for runs in recipes.values():
        print(f"\n{describe(runs[0]['recipe'])}\n\n{table(runs, args.against)}")
    if args.plot and recipes:
        plot({textwrap.fill(describe(runs[0]["recipe"]), 55): runs for runs in recipes.values()}, args.plot)


if __name__ == "__main__":
    main()
