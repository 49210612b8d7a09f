"""The study: arms, controls and variations, runs at an equal recipe, tables."""

import itertools
import json
import shutil

import pytest
import study
import study_table
import torch
from PIL import Image
from sage_timm.rearrange import rearrange, retained_saliency, unit_mass
from study_arms import NAMES, Arm, Control, Varied, best_partners, pair_values
from timm.data import Mixup

from sage_timm.plan import Batch

RECIPE = ["--test-split", "validation", "--model", "narrow", "--epochs", "2", "--auxiliary-epochs", "1"]
RECIPE += ["--batch-size", "6", "--device", "cpu"]


def arguments(image_folder, *more):
    return ["--data-dir", str(image_folder), *RECIPE, *map(str, more)]


def blurred_maps(count, side):
    return torch.nn.functional.avg_pool2d(torch.rand(count, 1, side, side) ** 4, 3, 1, 1)


def test_an_arm_is_a_name_and_settings():
    arm = Arm.parse("gradient+cutmix,lam_max=1,grid=16,weight=retained,prob=.8")
    assert arm.settings == {"lam_max": 1.0, "grid": 16, "weight": "retained", "prob": 0.8} and arm.source == "gradient"
    assert Arm.parse("still,grid=8").settings == {"search_fraction": 1e-9, "grid": 8}
    assert [Arm.parse(name).source for name in ("none", "mixup+cutmix", "flat+cutmix")] == [None, None, "flat"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sage", "an arm must be one of none, mixup"),
        ("mixup,power=2", "mixup must have settings out of prob, alpha, epochs, each once, got 'power'"),
        ("still,search_fraction=1", "each once, got 'search_fraction'"),
        ("none,epochs=1,epochs=2", "each once, got 'epochs'"),
        ("none,epochs=0", "`epochs` must be at least 1, got 0"),
        ("mixup,prob=7", "`prob` must lie in [0, 1], got 7.0"),
        ("mixup,alpha=0", "`alpha` must lie in (0, 1e+06], got 0.0"),
        ("none,prob=1", "none must have settings out of epochs, each once, got 'prob'"),
        ("gradient,grid=wide", "grid must be a number (int), got 'wide'"),
        ("gradient,pairing=all", "pairing must be one of flip, best, got 'all'"),
        ("gradient,lam_max=2", "`lam_max` must lie in (0, 1], got 2.0"),
    ],
)
def test_unfit_arms_are_refused_before_anything_is_trained(text, message, image_folder, monkeypatch):
    monkeypatch.setattr(study.Study, "run", lambda *a: pytest.fail("trained"))
    with pytest.raises(SystemExit) as caught:
        study.main(arguments(image_folder, "--arms", "none", text))
    assert str(caught.value).startswith("error: ") and message in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_mixes(name, tiny_model, image_folder):
    mix = Arm.parse(name).create(5, 1.0, tiny_model, lambda: tiny_model)
    if name == "none":
        assert mix is None
        return
    images, target = torch.randn(4, 3, 24, 24), torch.arange(4)
    mixed, soft = mix(images.clone(), target)
    assert mixed.shape == images.shape and not torch.equal(mixed, images)
    assert soft.shape == (4, 5) and torch.allclose(soft.sum(1), torch.ones(4))


def test_every_setting_reaches_what_mixes(tiny_model):
    text = "gradient+cutmix,prob=.3,alpha=.7,blur=.1,power=2,grid=5,lam_max=.9,search_fraction=.2"
    mix = Arm.parse(text + ",weight=retained,pairing=best").create(5, 1.0, tiny_model, lambda: tiny_model)
    assert (mix.mix_prob, mix.mixup_alpha, mix.cutmix_alpha, mix.num_classes) == (0.3, 0.7, 1.0, 5)
    assert (mix.saliency.blur, mix.saliency.power, mix.saliency.grid) == (0.1, 2, 5)
    assert mix.method == Varied(0.9, 0.2, "retained", "best")
    for name in ("random", "spectral", "self", "puzzlemix"):
        mix = Arm.parse(name + ",prob=.3,alpha=.7,blur=.1,power=2,grid=5").create(
            5, 1.0, tiny_model, lambda: tiny_model
        )
        assert (mix.saliency.blur, mix.saliency.power, mix.saliency.grid) == (0.1, 2, 5), name
        assert (mix.mix_prob, mix.mixup_alpha) == (0.3, 0.7), name
    mix = Arm.parse("mixup+cutmix,alpha=.7").create(5, 0.4, None, None)
    assert (mix.mix_prob, mix.mixup_alpha, mix.cutmix_alpha, mix.label_smoothing) == (0.4, 0.7, 0.7, 0)


def test_every_flag_reaches_the_training(image_folder, monkeypatch):
    trained, rates, sgd = [], [], torch.optim.SGD
    flags = ["--model", "resnet18", "--epochs", 9, "--auxiliary-epochs", 7, "--prob", 0.3, "--lr", 0.02]
    made = study.Study(study.parse(arguments(image_folder, *flags)))
    monkeypatch.setattr(torch.optim, "SGD", lambda weights, lr, **k: rates.append(lr) or sgd(weights, lr, **k))
    made.train(made.create_model("narrow"), 1, 0)
    assert rates == [0.02]

    def recorded(model, epochs, seed, mix=None, report=None):
        trained.append((model.num_features, epochs, getattr(mix, "mix_prob", None)))
        return 1.0, [[1, 1.0, 50.0]]

    monkeypatch.setattr(made, "train", recorded)
    for arm in ("none", "gradient", "gradient,prob=.6,epochs=4"):
        made.run(arm, 0)
    assert trained == [(512, 9, None), (128, 7, None), (512, 9, 0.3), (512, 4, 0.6)]


def test_a_flat_map_that_stays_in_place_is_timms_mixup():
    import numpy as np

    images, target = torch.randn(6, 3, 16, 20), torch.arange(6) % 5
    ours = Arm.parse("flat,lam_max=1,search_fraction=1e-9").create(5, 1.0, None, None)
    theirs = Mixup(1.0, num_classes=5, label_smoothing=0.0)
    np.random.seed(3)
    mixed, soft = ours(images, target)
    np.random.seed(3)
    expected, expected_soft = theirs(images.clone(), target)
    assert torch.allclose(mixed, expected, atol=1e-5) and torch.allclose(soft, expected_soft, atol=1e-6)


def test_controls_know_nothing_of_the_image():
    images = torch.randn(3, 3, 16, 24)
    centred, random, flat = (Control(kind)(images, None) for kind in ("centred", "random", "flat"))
    assert centred.shape == random.shape == flat.shape == (3, 1, 16, 24)
    assert torch.equal(centred[0], centred[1]) and torch.equal(centred, centred.flip(-1))
    assert centred[0].argmax() // 24 in (7, 8) and centred.min() > 0
    assert not torch.allclose(random[0], random[1]) and random.amin() == 0 and random.amax() == 1
    assert (flat == 1).all()


def test_retained_weight_is_the_share_of_what_is_kept():
    saliency, partner = blurred_maps(4, 12), torch.tensor([3, 2, 1, 0])
    batch = Batch(torch.zeros(4, 3, 12, 12), saliency, partner, torch.full((4,), 0.3), 1.0)
    plain, varied = Varied()(batch), Varied(weight="retained")(batch)
    assert torch.equal(plain.mask, varied.mask) and torch.equal(plain.translation, varied.translation)
    kept = plain.retained(saliency)
    assert torch.allclose(varied.lam, kept / kept.sum(1, keepdim=True))
    assert (plain.lam - varied.lam).abs().max() > 0.01


def test_values_of_pairs_are_those_of_the_search():
    maps = unit_mass(blurred_maps(5, 8))
    own, other = 0.3 * maps, 0.7 * maps
    values = pair_values(own, other)
    for i, j in itertools.product(range(5), repeat=2):
        translation, _ = rearrange(own[i : i + 1], other[j : j + 1])
        exact = retained_saliency(own[i : i + 1], other[j : j + 1], translation[:, None])
        assert values[i, j] + own[i].sum() == pytest.approx(exact.item(), abs=2e-3)


def test_best_partners_are_the_best_of_all_permutations():
    maps = unit_mass(blurred_maps(5, 8))
    own, other = 0.3 * maps, 0.7 * maps
    values, image = pair_values(own, other), torch.arange(5)
    chosen = best_partners(own, other)
    derangements = [torch.tensor(p) for p in itertools.permutations(range(5)) if all(i != j for i, j in enumerate(p))]
    assert (chosen != image).all() and sorted(chosen.tolist()) == list(range(5))
    best = max(values[image, p].sum().item() for p in derangements)
    assert values[image, chosen].sum().item() == pytest.approx(best, abs=1e-5)


def test_best_partners_reach_the_plan():
    batch = Batch(torch.zeros(6, 3, 16, 16), blurred_maps(6, 16), torch.arange(5, -1, -1), torch.full((6,), 0.5), 1.0)
    flip, best = (Varied(pairing=pairing)(batch) for pairing in ("flip", "best"))
    assert torch.equal(flip.source[:, 1], batch.partner) and not torch.equal(best.source[:, 1], batch.partner)
    assert best.retained(batch.saliency).sum() > flip.retained(batch.saliency).sum()


def test_a_study_runs_resumes_and_draws(image_folder, tmp_path, capsys, monkeypatch):
    file, picture = tmp_path / "runs.jsonl", tmp_path / "plot.png"
    arms = ["none", "mixup", "gradient,grid=8", "self", "none,epochs=3"]
    study.main(arguments(image_folder, "--arms", *arms, "--seeds", 0, 1, "--json", file))
    runs = study_table.read(file)
    assert [(run["seed"], run["arm"]) for run in runs] == list(itertools.product((0, 1), arms))
    for run in runs:
        epochs = [epoch for epoch, *_ in run["checks"]]
        assert epochs == list(range(1, 4 if "=3" in run["arm"] else 3))
        mean = sum(accuracy for *_, accuracy in run["checks"]) / len(epochs)
        assert run["accuracy"] == pytest.approx(mean, abs=0.01) and run["seconds"] > 0
        assert ("mask_sd" in run) == (run["arm"] in ("gradient,grid=8", "self"))
    out = capsys.readouterr().out
    assert "24 training and 6 test images of 3 classes" in out and out.count("auxiliary model, seed") == 2
    assert "gradient,grid=8, seed 1: epoch 2/2" in out

    monkeypatch.setattr(study.Study, "run", lambda *a: pytest.fail("a run that is done was repeated"))
    study.main(arguments(image_folder, "--arms", *arms, "--seeds", 0, 1, "--json", file, "--plot", picture))
    assert study_table.table(runs) in capsys.readouterr().out and picture.stat().st_size > 5000
    study_table.main([str(file), "--against", "none", "--plot", str(picture)])
    out = capsys.readouterr().out
    assert "model narrow, epochs 2" in out and study_table.table(runs, "none") in out
    monkeypatch.undo()
    study.main(arguments(image_folder, "--arms", "none", "--seeds", 0, "--lr", 0.05, "--json", file))
    assert len(study_table.read(file)) == len(runs) + 1, "another recipe is another run"


def test_an_interrupted_study_prints_what_it_has(image_folder, tmp_path, capsys, monkeypatch):
    file, run = tmp_path / "runs.jsonl", study.Study.run

    def interrupted(self, arm, seed):
        if seed == 1:
            raise KeyboardInterrupt
        return run(self, arm, seed)

    monkeypatch.setattr(study.Study, "run", interrupted)
    with pytest.raises(SystemExit, match="interrupted; the same command goes on"):
        study.main(arguments(image_folder, "--arms", "none", "--seeds", 0, 1, "--json", file))
    assert "| none | 1 |" in capsys.readouterr().out and len(study_table.read(file)) == 1


def test_runs_are_equal_but_for_the_mixing(image_folder, monkeypatch):
    """Same seed: same weights at the start, same images in the same order, whatever the arm draws."""
    seen, create, augmented = [], study.Study.create_model, study.Study.augmented

    def recorded_create(self, name):
        model = create(self, name)
        seen.append(torch.cat([p.flatten() for p in model.parameters()]))
        return model

    def recorded_augmented(self, images, generator):
        seen.append(augmented(self, images, generator))
        return seen[-1].clone()

    monkeypatch.setattr(study.Study, "create_model", recorded_create)
    monkeypatch.setattr(study.Study, "augmented", recorded_augmented)
    lesson, records = None, []
    options = study.parse(arguments(image_folder))
    for arm, seed in (("none", 0), ("mixup", 0), ("random", 0), ("none", 0), ("none", 1)):
        seen.clear()
        records.append(study.Study(options).run(arm, seed))
        lesson = lesson or list(seen)
        same = all(torch.equal(a, b) for a, b in zip(seen, lesson, strict=True))
        assert same == (seed == 0), arm
    assert records[0]["accuracy"] == records[3]["accuracy"]


def test_the_time_of_the_auxiliary_model_counts_where_it_is_used(image_folder):
    made = study.Study(study.parse(arguments(image_folder)))
    made.auxiliaries[0] = made.create_model("narrow"), 100.0
    for arm, extra in (("gradient", 100), ("activation+cutmix", 100), ("self", 0), ("random", 0), ("mixup", 0)):
        record = made.run(arm, 0)
        assert extra < record["seconds"] < extra + 50 and record["checks"][-1][1] == record["seconds"]


def test_parts_and_held_out_images_do_not_overlap(image_folder):
    def images(*more):
        made = study.Study(study.parse(arguments(image_folder, "--batch-size", 2, *more)))
        return [{image.numpy().tobytes() for image in part} for part in (made.images, made.test_images)]

    first, held_out = images("--train-images", 9, "--held-out", 6)
    second, same = images("--train-images", 9, "--part", 1, "--held-out", 6)
    whole, test = images()
    assert (len(first), len(second), len(held_out), len(whole), len(test)) == (9, 9, 6, 24, 6)
    assert held_out == same and first | second | held_out == whole and not test & whole
    with pytest.raises(
        SystemExit, match=r"must fit into the training images, got 0 left where 9 are needed, .*; ask for less"
    ):
        images("--train-images", 9, "--part", 2, "--held-out", 6)


def test_augmentation_crops_and_flips(image_folder):
    made = study.Study(study.parse(arguments(image_folder)))
    y, x = torch.meshgrid(torch.arange(1.0, 25), torch.arange(1.0, 25), indexing="ij")
    images = torch.stack([y, x, y * 100 + x]).expand(64, -1, -1, -1)
    augmented = made.augmented(images, torch.Generator().manual_seed(0))
    assert augmented.shape == images.shape
    flipped, offsets = 0, set()
    for rows, columns, both in augmented:
        assert torch.equal(torch.where(rows * columns > 0, rows * 100 + columns, 0), both)
        row, line = rows[:, 12], columns[12]
        flipped += (line[11] > line[12]).item()
        offsets.add((row[12] - 13).item())
    assert 16 < flipped < 48 and offsets == set(range(-4, 5))


def test_look_measures_plans_and_trains_no_arm(image_folder, capsys):
    study.main(arguments(image_folder, "--arms", "mixup", "flat", "centred", "still", "--look"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == ["mixup {}", "flat {'mask_sd': 0.0, 'moved': 0.0, 'distance': 0.0}"]
    assert json.loads(lines[4].removeprefix("centred ").replace("'", '"'))["moved"] == 100
    assert lines[-1].startswith("still ") and "'moved': 0.0" in lines[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochs", 0], "argument --epochs: must lie in [1, inf], got 0"),
        (["--lr", "nan"], "argument --lr: must lie in"),
        (["--prob", 2], "argument --prob: must lie in [0, 1], got 2"),
        (["--batch-size", 7], "--batch-size must be even, got 7"),
        (["--seeds", -1], "argument --seeds: must lie in"),
        (["--part", 1], "--part 1 needs --train-images"),
        (["--against", "typo"], "--against must be one of the --arms, got typo"),
        (["--held-out", 24], "must fit into the training images, got 0 left"),
        (["--train-split", "nowhere"], "--data-dir must hold both splits"),
        (["--device", "nothing"], "error: "),
        (["--json", "no/such/folder/runs.jsonl"], "no/such/folder/runs.jsonl"),
        (["--plot", "no/such/folder/plot.png"], "no/such/folder/plot.png"),
    ],
)
def test_unfit_flags_are_refused_before_anything_is_trained(flags, message, image_folder, monkeypatch, capsys):
    monkeypatch.setattr(study.Study, "run", lambda *a: pytest.fail("trained"))
    with pytest.raises(SystemExit) as caught:
        study.main(arguments(image_folder, *flags))
    text = str(caught.value.code) if caught.value.code != 2 else capsys.readouterr().err.splitlines()[-1]
    assert message in text and "\n" not in text


def test_splits_that_do_not_belong_together_are_refused(image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "odd")
    shutil.move(tmp_path / "odd" / "validation" / "class2", tmp_path / "odd" / "validation" / "class9")
    with pytest.raises(SystemExit, match="the same classes, got class2, class9 in one alone"):
        study.main(arguments(tmp_path / "odd"))
    shutil.copytree(image_folder, tmp_path / "sizes")
    for path in (tmp_path / "sizes" / "validation").rglob("*.png"):
        Image.open(path).resize((20, 24)).save(path)
    with pytest.raises(SystemExit, match="the images must be of one size, got another in the test split"):
        study.main(arguments(tmp_path / "sizes"))


def test_no_run_is_lost_or_taken_for_another(image_folder, tmp_path, capsys, monkeypatch):
    """A damaged file, an arm that fails, a repeated arm or seed, another split."""
    file = tmp_path / "runs.jsonl"
    ask = arguments(image_folder, "--arms", "none", "none", "--seeds", 0, 0, "--json", file)
    study.main(ask)
    assert len(study_table.read(file)) == 1
    file.write_text(file.read_text() + '[1]\n{"arm": "no')
    run = study.Study.run
    monkeypatch.setattr(study.Study, "run", lambda self, arm, seed: run(self, arm, seed) if arm == "none" else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        study.main(arguments(image_folder, "--arms", "none", "mixup", "--seeds", 0, 1, "--json", file))
    out, err = capsys.readouterr()
    assert err.count("is no run of study.py and is left out") == 2 and "| none | 1 |" in out
    study.main(arguments(image_folder, "--arms", "none", "--seeds", 0, 1, "--json", file))
    assert [run["seed"] for run in study_table.read(file)] == [0, 1]
    assert "| none | 2 |" in capsys.readouterr().out
    study.main([*ask, "--test-split", "train"])
    assert len(study_table.read(file)) == 3


def record(arm, seed, accuracy, seconds=10.0, **more):
    checks = [[1, seconds / 2, accuracy - 5], [2, seconds, accuracy]]
    return {"arm": arm, "seed": seed, "accuracy": accuracy, "seconds": seconds, "checks": checks} | more


def test_the_table_compares_by_seed_and_by_budget():
    runs = [record("mixup", 0, 60.0), record("mixup", 1, 64.0), record("cutmix", 0, 50.0), record("cutmix", 1, 52.0)]
    runs += [record("gradient", 0, 62.0, 20.0, mask_sd=0.25, moved=50.0, distance=4.0)]
    runs += [record("gradient", 1, 66.5, 20.0, mask_sd=0.35, moved=70.0, distance=5.0), record("still", 0, 61.0)]
    runs += [record("self", 0, 40.0, 50.0)]
    lines = study_table.table(runs).splitlines()
    assert lines[2:] == [
        "| gradient | 2 | 64.25 ± 3.18 | +2.25 on 2 | 20 | 59.25 | 0.3 | 60 | 4.5 |",
        "| mixup | 2 | 62.00 ± 2.83 | +0.00 on 2 | 10 | 62.00 |  |  |  |",
        "| still | 1 | 61.00 | +1.00 on 1 | 10 | 61.00 |  |  |  |",
        "| cutmix | 2 | 51.00 ± 1.41 | -11.00 on 2 | 10 | 51.00 |  |  |  |",
        "| self | 1 | 40.00 | -20.00 on 1 | 50 |  |  |  |  |",
    ]
    assert "against mixup" in lines[0] and "against cutmix" in study_table.table(runs, "cutmix")
    noisy = {seed: record("a", seed, value) for seed, value in enumerate((60.0, 64.0, 61.0))}
    level = {seed: record("b", seed, 61.0) for seed in range(3)}
    assert study_table.difference(noisy, level) == "+0.67 ± 1.20 (none)"
    assert study_table.difference(level, noisy) == "-0.67 ± 1.20 (none)" and study_table.difference(level, None) == ""
