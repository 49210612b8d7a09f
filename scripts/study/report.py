"""Tables and plots of runs of the study, for each recipe in the files.

python -m scripts.study.report FILE ... [--against ARM] [--arms ARM ...] [--plot FILE] [--gains FILE]
"""

import argparse
import json
import statistics
import sys
import textwrap
from pathlib import Path

from .arms import SOURCES, TIMM

BASELINES = ("none", *TIMM)
MEASURES = {"accuracy": "accuracy %", "nll": "NLL", "ece": "ECE %", "blurred": "blurred %", "noisy": "noisy %"}
MEASURES |= {"seconds": "seconds", "on_object": "mass on object", "pointing": "pointing", "half_mass": "half mass in"}
MEASURES |= {"objects": "objects kept", "mask_sd": "sd of the mask", "moved": "moved %", "distance": "by % of the side"}
PREDICTORS = ("on_object", "pointing", "half_mass", "retained", "objects")


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


def in_words(arm: str) -> str:
    """Name an arm for the picture of gains."""
    name, *settings = arm.split(",")
    source, *others = name.split("+")
    if source not in SOURCES:
        return arm
    words = {"feature": "SAGE", "oracle": "SAGE, true maps", "shuffled": "SAGE, maps of other images"}
    titles = {"mixup": "Mixup", "cutmix": "CutMix", "label=saliency": "labels by saliency"}
    turns = "".join(f" by turns with {titles[other]}" for other in others)
    settings = [titles.get(setting, setting) for setting in settings if not setting.startswith("grid=")]
    return ", ".join([words.get(source, f"SAGE, {source}") + turns, *settings])


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
    mixing = [mean(arms[arm], "accuracy") for arm in TIMM if arm in arms]
    if "none" in arms and mixing and mean(arms["none"], "accuracy") >= max(mixing):
        sentences.append(
            "No mixing was at least as good as timm's mixing here. Mixing helps networks that overfit: train longer, "
            "on fewer images, or a larger network before you judge a method, or take more seeds."
        )
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


def gains(recipes: dict[str, list[dict]]) -> list[dict]:
    """List every arm's gain over the best baseline of its recipe.

    Returns:
        For each arm and recipe `arm`, `share` (the objects' share of the frame in %, 100 for plain images), `gain`,
        `error` (None under 3 seeds) and the means of the `PREDICTORS` that were measured.
    """
    points = []
    for runs in recipes.values():
        arms = by_arm(runs)
        baseline = arms.get(best_baseline(arms), {})
        share = 100 * statistics.mean(runs[0]["recipe"].get("object_share") or [1.0])
        for arm, each in arms.items():
            value, error, count = gap(each, baseline)
            if count:
                point = {"arm": arm, "share": share, "gain": value, "error": error}
                known = [key for key in PREDICTORS if all(key in run for run in each.values())]
                points.append(point | {key: mean(each, key) for key in known})
    return points


def correlations(points: list[dict]) -> str:
    """Correlate each number of a map's quality with the gain, over arms and shares: a Markdown table."""
    lines = []
    for key in PREDICTORS:
        pairs = [(point[key], point["gain"]) for point in points if key in point]
        if len({x for x, _ in pairs}) > 2:
            x, y = zip(*pairs, strict=True)
            ranked = statistics.correlation(ranks(x), ranks(y))
            lines.append(f"| {key} | {len(pairs)} | {statistics.correlation(x, y):+.2f} | {ranked:+.2f} |")
    return "\n".join(["| number | points | r with the gain | rank correlation |", "| --- | --- | --- | --- |", *lines])


def ranks(values: tuple[float, ...]) -> list[float]:
    """Return the rank of each value, ties in the middle of theirs."""
    ordered = sorted(values)
    return [ordered.index(value) + ordered.count(value) / 2 for value in values]


def plot_gains(points: list[dict], arms: list[str], path: str) -> None:
    """Draw the gain over timm's best against the objects' share of the frame and the maps' mass on the object."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for arm in arms:
        line = sorted((point for point in points if point["arm"] == arm), key=lambda point: point["share"])
        errors = [point["error"] or 0 for point in line]
        title = in_words(arm)
        left.errorbar([p["share"] for p in line], [p["gain"] for p in line], errors, marker="o", capsize=3, label=title)
        known = [p for p in line if "on_object" in p]
        right.errorbar(
            [p["on_object"] for p in known], [p["gain"] for p in known], [p["error"] or 0 for p in known],
            fmt="o", capsize=3, label=title,
        )  # fmt: skip
    shares = sorted({point["share"] for point in points})
    left.set(xscale="log", xlabel="the object's share of the frame in %")
    left.set_xticks(shares, [f"{share:g}" for share in shares])
    left.minorticks_off()
    right.set(xlabel="share of the maps' mass that lies on the object")
    for axes in (left, right):
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(ylabel="gain over the best of none and timm's arms, points")
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def plot(groups: dict[str, list[dict]], path: str) -> None:
    """Draw a panel for each group of runs, by its title: a dot for every run's accuracy, a bar at every arm's mean."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(groups), figsize=(7 * len(groups), 6), squeeze=False, layout="constrained")
    for axes, (title, runs) in zip(panels[0], groups.items(), strict=True):
        arms = by_arm(runs)
        for row, each in enumerate(arms.values()):
            axes.plot([run["accuracy"] for run in each.values()], [row] * len(each), "o", alpha=0.5)
            axes.plot(mean(each, "accuracy"), row, "k|", markersize=12)
        axes.set(
            yticks=range(len(arms)),
            yticklabels=map(label, arms),
            title=title,
            xlabel="accuracy %: a dot per seed, a bar at the mean",
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
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="these arms alone, beside none and timm's")
    parser.add_argument("--plot", metavar="FILE", help="draw the accuracies of all recipes")
    parser.add_argument("--gains", metavar="FILE", help="draw gains against the object share and the maps' quality")
    args = parser.parse_args(argv)
    recipes = {}
    for path in args.json:
        if not path.is_file():
            parser.error(f"FILE must be a file that the study wrote, got {path}")
        for run in read(path):
            if args.arms is None or run["arm"] in (*args.arms, *BASELINES):
                recipes.setdefault(json.dumps(run["recipe"]), []).append(run)
    for runs in recipes.values():
        print(f"\n{describe(runs[0]['recipe'])}\n\n{table(runs, args.against)}")
    points = gains(recipes)
    if any(key in point for key in PREDICTORS for point in points):
        print(f"\n{correlations(points)}")
    if args.plot and recipes:
        plot({textwrap.fill(describe(runs[0]["recipe"]), 55): runs for runs in recipes.values()}, args.plot)
    if args.gains and points:
        chosen = args.arms or list(dict.fromkeys(point["arm"] for point in points if "on_object" in point))
        plot_gains(points, chosen, args.gains)


if __name__ == "__main__":
    main()
