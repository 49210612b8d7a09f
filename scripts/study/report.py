"""Tables of runs of the study, for each recipe in the files: python -m scripts.study.report FILE ... [--against ARM]"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from .arms import SOURCES, TIMM

BASELINES = ("none", *TIMM)
MEASURES = {"accuracy": "accuracy %", "nll": "NLL", "ece": "ECE %", "seconds": "seconds"}
MEASURES |= {"on_object": "mass on object", "pointing": "pointing"}
MEASURES |= {"objects": "objects kept", "mask_sd": "sd of the mask", "moved": "moved %", "distance": "by % of the side"}


def read(path: Path | None) -> list[dict]:
    """Read the runs of a file, one per line; none where there is no file. Other lines are named and left out."""
    runs = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines() if path and path.exists() else [], 1):
        try:
            run = json.loads(line)
            if not run.keys() >= {"arm", "seed", "recipe", "accuracy", "seconds"}:
                raise ValueError
            runs.append(run)
        except (AttributeError, ValueError):
            print(f"{path}: line {number} is no run of the study and is left out", file=sys.stderr)
    return runs


def append(path: Path, run: dict) -> None:
    """Add a run to a file as a line of its own, also after a line that was cut off."""
    text = path.read_bytes() if path.exists() else b""
    with path.open("a") as file:
        file.write("\n" * (text != b"" and not text.endswith(b"\n")) + json.dumps(run) + "\n")


def by_arm(runs: list[dict]) -> dict[str, dict[int, dict]]:
    """Group runs by arm, then by seed; the arm of the highest mean accuracy comes first."""
    arms = {}
    for run in runs:
        arms.setdefault(run["arm"], {})[run["seed"]] = run
    return dict(sorted(arms.items(), key=lambda item: -mean(item[1], "accuracy")))


def mean(runs: dict[int, dict], key: str) -> float:
    """Return the mean of what runs measured."""
    return statistics.mean(run[key] for run in runs.values())


def best_baseline(arms: dict[str, dict[int, dict]]) -> str | None:
    """Return the best of no mixing and timm's arms by their defaults, among those with the most seeds."""
    known = [arm for arm in arms if arm in BASELINES]
    return max(known, key=lambda arm: len(arms[arm]), default=None)


def gap(arm: dict[int, dict], other: dict[int, dict]) -> tuple[float, float | None, int]:
    """Return the mean difference in accuracy on common seeds, its standard error (None under 3 seeds), their number."""
    gaps = [arm[seed]["accuracy"] - other[seed]["accuracy"] for seed in arm if seed in other]
    error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 2 else None
    return statistics.mean(gaps) if gaps else 0.0, error, len(gaps)


def difference(arm: dict[int, dict], other: dict[int, dict] | None) -> str:
    """Write the difference of two arms as mean ± standard error; bold beyond two standard errors."""
    value, error, count = gap(arm, other or {})
    if not count or arm is other:
        return ""
    if error is None:
        return f"{value:+.2f} on {count}"
    text = f"{value:+.2f} ± {error:.2f}"
    return f"**{text}**" if abs(value) > 2 * error else text


def table(runs: list[dict], against: str | None = None) -> str:
    """Make two Markdown tables of the arms, the best first: accuracies with paired differences, and all measures.

    Args:
        runs: of one recipe.
        against: the arm of the first column of differences; None for `best_baseline`.
    """
    arms = by_arm(runs)
    against = against or best_baseline(arms)
    others = [against, *(arm for arm in BASELINES if arm in arms and arm != against)] if against else []
    rows = [["arm", "seeds", "accuracy % ± sd", *(f"against {other} ± s.e." for other in others)]]
    for arm, each in arms.items():
        accuracy = [run["accuracy"] for run in each.values()]
        spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
        row = [arm, f"{len(each)}", f"{statistics.mean(accuracy):.2f}{spread}"]
        rows.append(row + [difference(each, arms.get(other)) for other in others])
    known = [key for key in MEASURES if any(key in run for run in runs)]
    measured = [["arm", *(MEASURES[key] for key in known)]]
    for arm, each in arms.items():
        whole = [key if all(key in run for run in each.values()) else None for key in known]
        measured.append([arm, *("" if key is None else f"{mean(each, key):.4g}" for key in whole)])
    return f"{_markdown(rows)}\n\n{_markdown(measured)}"


def label(arm: str) -> str:
    """Name an arm for those who do not know the study."""
    source = arm.split(",")[0].split("+")[0]
    return "no mixing" if arm == "none" else f"SAGE, {arm}" if source in SOURCES else arm


def summary(runs: list[dict]) -> str:
    """Make a small Markdown table, and a sentence for each arm on how it compares with no mixing and timm's arms."""
    arms = by_arm(runs)
    rows = [["arm", "seeds", "accuracy % ± sd", "seconds", "of them the auxiliary model"]]
    for arm, each in arms.items():
        accuracy = [run["accuracy"] for run in each.values()]
        spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
        times = [f"{mean(each, key):.1f}" for key in ("seconds", "auxiliary_seconds")]
        rows.append([label(arm), f"{len(each)}", f"{statistics.mean(accuracy):.2f}{spread}", *times])
    sentences = [
        f"{label(arm)} against {label(other)}: {verdict(*gap(arms[arm], arms[other]))}."
        for arm in arms
        for other in arms
        if other in BASELINES and arm not in BASELINES
    ]
    return "\n".join([_markdown(rows), "", *sentences])


def verdict(value: float, error: float | None, count: int) -> str:
    """Say in words what a difference in accuracy (see `gap`) shows: more than two standard errors, or nothing."""
    if error is None:
        return f"{value:+.2f} points on {count} common seed{'s' * (count > 1)}, too few to tell"
    found = f"{value:+.2f} points, standard error {error:.2f} on {count} seeds"
    if abs(value) <= 2 * error:
        return f"no difference shown ({found}, within two standard errors)"
    return f"{'better' if value > 0 else 'worse'} ({found}, more than two standard errors)"


def _markdown(rows: list[list[str]]) -> str:
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot(runs: list[dict], path: str | Path) -> None:
    """Draw a dot for every run's accuracy and a bar at every arm's mean."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 6), layout="constrained")
    arms = by_arm(runs)
    for row, each in enumerate(arms.values()):
        axes.plot([run["accuracy"] for run in each.values()], [row] * len(each), "o", alpha=0.5)
        axes.plot(mean(each, "accuracy"), row, "k|", markersize=12)
    axes.set(
        yticks=range(len(arms)), yticklabels=map(label, arms), xlabel="accuracy %: a dot per seed, a bar at the mean"
    )
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def describe(recipe: dict) -> str:
    """Write what runs have in common; what is not set is left out."""
    return ", ".join(f"{key} {value}" for key, value in recipe.items() if value is not None)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--against", metavar="ARM", help="compare with this arm (default: the best of timm's and none)")
    args = parser.parse_args(argv)
    recipes = {}
    for path in args.json:
        if not path.is_file():
            parser.error(f"FILE must be a file that the study wrote, got {path}")
        for run in read(path):
            recipes.setdefault(json.dumps(run["recipe"]), []).append(run)
    for runs in recipes.values():
        print(f"\n{describe(runs[0]['recipe'])}\n\n{table(runs, args.against)}")


if __name__ == "__main__":
    main()
