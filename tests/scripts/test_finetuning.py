"""The fine-tuning study: its runs by a stand-in of timm's train.py, its images from data sets of the published form."""

import json

import pytest
from PIL import Image

from scripts.study import finetuning, finetuning_data

TRAIN = """
import sys
from pathlib import Path

def value(flag):
    return sys.argv[sys.argv.index(flag) + 1]

if "--breaks" in sys.argv:
    raise ArithmeticError("no gradient")
folder = Path(value("--output"), value("--experiment"))
folder.mkdir(parents=True)
top1 = 70 + float(value("--seed")) + 5 * ("--mixup" in sys.argv)
(folder / "summary.csv").write_text(f"epoch,eval_loss,eval_top1\\n0,3.5,1\\n1,0.5,{top1}\\n")
with Path("calls.txt").open("a") as file:
    print(*sys.argv[1:], file=file)
"""


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(TRAIN)
    for name in ("bolt", "nut", "tape"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return ["train.py", "data", "--json", "runs.jsonl", "--arms", "none", "mixup+cutmix"]


def test_runs_are_of_the_last_epoch_are_kept_and_not_repeated(arguments, tmp_path, capsys):
    finetuning.main([*arguments, "--seeds", "0"])
    finetuning.main([*arguments, "--seeds", "0", "1"])
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").open()]
    assert [(run["arm"], run["seed"], run["accuracy"]) for run in runs] == [
        ("none", 0, 70.0),
        ("mixup+cutmix", 0, 75.0),
        ("none", 1, 71.0),
        ("mixup+cutmix", 1, 76.0),
    ]
    assert "+5.00" in capsys.readouterr().out
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert len(calls) == 4 and all("--num-classes 3" in call for call in calls)


def test_other_settings_are_other_runs_and_flags_reach_the_script(arguments, tmp_path):
    finetuning.main([*arguments, "--seeds", "0"])
    finetuning.main([*arguments, "--seeds", "0", "--layers", "head", "--", "--aa", "rand-m5"])
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert len(calls) == 4 and all("--layer-decay" in call and "--aa rand-m5" in call for call in calls[2:])


def test_only_sage_goes_through_the_launcher(arguments):
    args = finetuning.parse(arguments)
    through = {arm: "sage_timm" in finetuning.command(args, arm, 0, "out") for arm in finetuning.ARMS}
    assert [arm for arm in through if through[arm]] == ["network", "network+cutmix"]


def test_a_run_that_ends_with_an_error_says_so_and_keeps_the_others(arguments, tmp_path):
    finetuning.main([*arguments, "--seeds", "0"])
    with pytest.raises(SystemExit, match=r"none, seed 0: train.py ended with 1(.|\n)*no gradient"):
        finetuning.main([*arguments, "--seeds", "0", "--", "--breaks"])
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 2


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(path)


def make_tiles(source):
    for i in range(10):
        draw(source / "MT_Crack" / "Imgs" / f"{i}.jpg")
    return {"MT_Crack": (5, 5)}


def make_debris(source):
    names = ["Bolt"] * 50 + ["Nut"] * 40 + ["Bolt"] * 50
    for i, name in enumerate(names):
        draw(source / "JPEGImages" / f"{i:06}.jpg")
        (source / "Annotations").mkdir(exist_ok=True)
        (source / "Annotations" / f"{i:06}.xml").write_text(f"<object><name>{name}</name></object>")
    return {"Bolt": (12, 20), "Nut": (12, 12)}


def make_weeds(source):
    rows = [f"{i}.jpg,0,Siam weed" for i in range(14)]
    for i in range(14):
        draw(source / "data" / f"{i}.jpg")
    (source / "labels").mkdir()
    (source / "labels" / "labels.csv").write_text("\n".join(["Filename,Label,Species", *rows]))
    return {"Siam_weed": (8, 6)}


@pytest.mark.parametrize("make", [make_tiles, make_debris, make_weeds])
def test_images_are_split_and_enlarged(make, tmp_path):
    expected = make(tmp_path / "source")
    finetuning_data.main([make.__name__.removeprefix("make_"), str(tmp_path / "source"), str(tmp_path / "out")])
    train, test = (
        {p.name: len(list(p.iterdir())) for p in (tmp_path / "out" / s).iterdir()} for s in ("train", "validation")
    )
    assert train == {name: count for name, (count, _) in expected.items()}
    assert test == {name: count for name, (_, count) in expected.items()}
    files = [{p.name for p in (tmp_path / "out").glob(f"{s}/*/*")} for s in ("train", "validation")]
    assert not files[0] & files[1]
    assert Image.open(next((tmp_path / "out").glob("train/*/*"))).size == (213, 160)
    if make is make_debris:
        frames = [[int(name[:6]) for name in names] for names in files]
        assert all(frame % 90 < 30 or frame in range(50, 74) for frame in frames[0]), "the first six tenths of a film"
        assert all(35 <= frame % 90 < 50 or frame in range(78, 90) for frame in frames[1]), "the last three"


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "source").mkdir()
    with pytest.raises(SystemExit, match="error: SOURCE must be the folder of tiles, got"):
        finetuning_data.main(["tiles", str(tmp_path / "source"), str(tmp_path / "out")])
