"""The study: data by object share, arms, controls and variations, runs at an equal recipe, tables."""

import itertools
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from timm.data import Mixup
from torchvision.transforms import v2

from sage_timm import create_saliency
from sage_timm.tensors import resize, translate
from scripts.study import __main__ as study
from scripts.study import photographs, report
from scripts.study.arms import NAMES, Arm, Control, Truth, map_quality
from scripts.study.augment import Augmentation, crop, draw_crops
from scripts.study.data import place

RECIPE = ["--test-split", "validation", "--model", "narrow", "--epochs", "2", "--auxiliary-epochs", "1"]
RECIPE += ["--batch-size", "6", "--device", "cpu"]
SMALL = ["--object-share", "0.25", "--frame", "32"]


def arguments(image_folder, *more):
    return ["--data-dir", str(image_folder), *RECIPE, *map(str, more)]


@pytest.fixture
def trained(monkeypatch):
    """Trains nothing: a list of what was asked for, the model's width, the epochs and the share of mixed batches."""
    asked = []

    def train(self, model, epochs, seed, mix=None, name=""):
        asked.append((model.num_features, epochs, getattr(mix, "mix_prob", None)))
        return 1.0, [[1, 1.0, {"accuracy": 50.0, "nll": 1.0, "ece": 3.0}]]

    monkeypatch.setattr(study.Study, "train", train)
    return asked


def create(text, model=None, prob=1.0, mask=None):
    truth = Truth()
    truth.mask = torch.ones(4, 1, 24, 24) if mask is None else mask
    return Arm.parse(text).create(5, prob, lambda: model, truth, ((0.5,) * 3, (0.25,) * 3))


@pytest.mark.parametrize(
    ("share", "low", "high"), [((0.25,), 0.17, 0.35), ((0.06, 0.5), 0.055, 0.51), ((1.0,), 0.69, 1)]
)
def test_objects_take_their_share_of_the_frame(share, low, high):
    digits = torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8)
    framed, mask = place(digits, share, 48, torch.Generator().manual_seed(0))
    assert framed.shape == (300, 3, 48, 48) and mask.shape == (300, 1, 48, 48) and framed.dtype == torch.uint8
    covered = mask.float().mean((1, 2, 3))
    assert covered.min() >= low and covered.max() <= high and covered.std() > 0.02
    if share == (0.25,):
        assert covered.mean().item() == pytest.approx(0.252, abs=0.01)
    rows, columns = mask[:, 0].amax(2), mask[:, 0].amax(1)
    assert torch.equal(rows.sum(1) * columns.sum(1), mask.long().sum((1, 2, 3)).to(rows.sum(1).dtype)), "no rectangle"
    assert len({tuple(row.tolist()) for row in rows}) > 30, "objects stand at few places"


def test_the_object_stands_where_its_mask_says_and_nowhere_else():
    """White images with one grey corner: inside the mask the image itself, outside nothing of its shape."""
    images = torch.full((40, 3, 16, 16), 255, dtype=torch.uint8)
    images[:, :, :8, :8] = 100
    framed, mask = place(images, (0.25,), 32, torch.Generator().manual_seed(1))
    for image, where in zip(framed, mask[:, 0].bool(), strict=True):
        y, x = where.nonzero().unbind(1)
        shown = image[:, y.min() : y.max() + 1, x.min() : x.max() + 1].float()
        half = shown.shape[1] // 2
        assert (shown[:, : half - 2, : half - 2] == 100).all() and (shown[:, half + 2 :] == 255).all()
    _, again = place(images, (0.25,), 32, torch.Generator().manual_seed(1))
    assert torch.equal(mask, again), "the same seed places differently"


def test_backgrounds_have_the_colours_and_the_sharpness_of_another_image_and_no_shape():
    wave = 128 + 60 * torch.sin(torch.arange(32) * 2 * np.pi * 4 / 32)
    images = torch.stack([wave, wave, wave + 40]).round().byte()[:, None].expand(50, 3, 32, 32).clone()
    framed, mask = place(images, (0.25,), 64, torch.Generator().manual_seed(0))
    texture = framed.float() * (1 - mask)
    outside = (1 - mask).sum((0, 2, 3))
    assert (texture.sum((0, 2, 3)) / outside).tolist() == pytest.approx([128, 128, 168], abs=15)
    along_x, along_y = ((framed.float().diff(dim=dim).abs()).mean() for dim in (3, 2))
    assert along_x > 3 * along_y, "a wave along x is none along y"
    first = framed[:, 0, 0].float()
    assert torch.corrcoef(first).fill_diagonal_(0).mean().abs() < 0.2, "phases are not random"
    photograph = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8)
    for share in (0.06, 0.25):
        framed, mask = place(photograph, (share,), 48, torch.Generator().manual_seed(0))
        inside = mask[..., 1:] * mask[..., :-1]
        edges = framed.float().diff(dim=3).abs().mean(1, keepdim=True)
        sharpness = [(edges * where).sum() / where.sum() for where in (inside, 1 - mask[..., 1:])]
        assert sharpness[0] == pytest.approx(sharpness[1], rel=0.25), "an object is sharper than its background"


def test_an_arm_is_a_name_and_settings():
    arm = Arm.parse("gradient+cutmix,lam_max=1,grid=16,label=saliency,prob=.8")
    assert arm.settings == {"lam_max": 1.0, "grid": 16, "label": "saliency", "prob": 0.8} and arm.source == "gradient"
    names = ("none", "mixup+cutmix", "flat+cutmix", "puzzlemix", "resizemix")
    assert [Arm.parse(name).source for name in names] == [None, None, "flat", "feature", None]
    names = ("gradient", "feature+cutmix", "puzzlemix", "feature,aux=tf_efficientnet_lite0", "spectral", "mixup")
    assert [Arm.parse(name).trains_auxiliary for name in names] == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sage", "an arm must be one of none, mixup"),
        ("mixup,lam_max=1", "mixup must have settings out of prob, alpha, epochs, each once, got 'lam_max'"),
        ("none,epochs=1,epochs=2", "each once, got 'epochs'"),
        ("mixup,prob=7", "`prob` must lie in [0, 1], got 7.0"),
        ("gradient,grid=wide", "grid must be a number (int), got 'wide'"),
        ("flat,move=never", "move must be one of yes, no, only, got 'never'"),
        ("flat,aux=resnet18", "each once, got 'aux'"),
        ("feature,aux=nothing", "`model` must name a timm model with pretrained weights, got 'nothing'"),
        ("oracle", "oracle must know where the objects are; set --boxes or --object-share"),
        ("gradient,lam_max=2", "`lam_max` must lie in (0, 1], got 2.0"),
    ],
)
def test_unfit_arms_are_refused_before_anything_is_trained(text, message, image_folder, monkeypatch):
    monkeypatch.setattr(study.Study, "run", lambda *a: pytest.fail("trained"))
    with pytest.raises(SystemExit) as caught:
        study.main(arguments(image_folder, "--arms", "none", text))
    assert str(caught.value).startswith("error: ") and message in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_mixes(name, tiny_model):
    mix = create(name, tiny_model)
    if name == "none":
        assert mix is None
        return
    images, target = torch.rand(4, 3, 24, 24) * 2 - 1, torch.arange(4)
    mixed, soft = mix(images.clone(), target)
    assert mixed.shape == images.shape and not torch.equal(mixed, images)
    assert soft.shape == (4, 5) and torch.allclose(soft.sum(1), torch.ones(4))


def test_every_setting_reaches_what_mixes(tiny_model):
    mix = create("gradient+cutmix,prob=.3,alpha=.7,blur=.1,grid=5,floor=.4,lam_max=.9,label=saliency", tiny_model)
    assert (mix.mixup_alpha, mix.cutmix_alpha, mix.num_classes) == (0.7, 0.7, 5)
    assert (mix.method.lam_max, mix.planner.label_weight) == (0.9, "saliency")
    for name in ("oracle", "spectral", "puzzlemix", "gradient+cutmix"):
        mix = create(name + ",prob=.3,alpha=.7,blur=.1,grid=5,floor=.4", tiny_model)
        assert (mix.saliency.blur, mix.saliency.grid, mix.saliency.floor) == (0.1, 5, 0.4), name
        assert (mix.mix_prob, mix.mixup_alpha) == (0.3, 0.7), name
    mix = create("mixup+cutmix,alpha=.7", prob=0.4)
    assert (mix.mix_prob, mix.mixup_alpha, mix.cutmix_alpha, mix.label_smoothing) == (0.4, 0.7, 0.7, 0)


@pytest.mark.slow
def test_a_pretrained_model_sees_the_images_as_it_expects_and_none_is_trained(image_folder, monkeypatch, trained):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    made = study.Study(study.parse(arguments(image_folder, *SMALL)))
    record = made.run("feature,aux=tf_efficientnet_lite0,epochs=1", 0)
    assert record["auxiliary_seconds"] == 0 and record["on_object"] > 0 and len(trained) == 1
    source = Arm.parse("gradient,aux=tf_efficientnet_lite0").create_source(None, None, made.statistics)
    images = made.images[:4].float() / 255
    seen = source.auxiliary.input(made.normalized(images * 255), source.size, source.statistics)
    assert source.size == (112, 112) and torch.allclose(seen, resize((images - 0.5) / 0.5, (112, 112)), atol=1e-5)


def test_the_two_parts_of_sage_alone():
    """Objects in the same corner: in place both blend there by their maps; moved, evenly wherever the partner is."""
    images, target, mask = torch.randn(4, 3, 24, 24), torch.arange(4), torch.zeros(4, 1, 24, 24)
    mask[:, :, :8, :8] = 1
    plans = []
    for move in ("yes", "no", "only"):
        np.random.seed(2)
        plans.append(create(f"oracle,move={move}", mask=mask).plan(images, target))
    whole, still, moved = plans
    assert (still.translation == 0).all() and (whole.translation[:, 1].abs().amax((1, 2, 3)) >= 8).all()
    assert torch.allclose(still.mask[:, 0], still.lam[:, :1, None].expand(-1, 24, 24), atol=1e-6), "both or neither"
    assert torch.equal(moved.translation, whole.translation)
    frame = F.pad(torch.ones(4, 1, 24, 24), (1,) * 4)
    there = translate(frame, moved.translation[:, 1])[:, 0, 1:-1, 1:-1] > 0
    ratio = still.lam[0, 0]
    assert torch.allclose(moved.mask[:, 0], torch.where(there, ratio, 1.0)) and not there.all()
    assert torch.allclose(moved.lam[:, 0], moved.mask[:, 0].mean((1, 2)))


def test_every_flag_reaches_the_training(image_folder, trained):
    flags = ["--model", "wide", "--epochs", 9, "--auxiliary-epochs", 7, "--prob", 0.3]
    made = study.Study(study.parse(arguments(image_folder, *flags)))
    for arm in ("none", "gradient", "gradient,prob=.6,epochs=4"):
        made.run(arm, 0)
    assert trained == [(256, 9, None), (128, 7, None), (256, 9, 0.3), (256, 4, 0.6)]


def test_the_learning_rate_reaches_the_optimizer(image_folder, monkeypatch):
    rates, sgd = [], torch.optim.SGD
    made = study.Study(study.parse(arguments(image_folder, "--lr", 0.02)))
    monkeypatch.setattr(torch.optim, "SGD", lambda weights, lr, **k: rates.append(lr) or sgd(weights, lr, **k))
    made.train(made.create_model("narrow"), 1, 0)
    assert rates == [0.02]


def test_a_flat_map_that_stays_in_place_is_timms_mixup():
    images, target = torch.randn(6, 3, 16, 20), torch.arange(6) % 5
    ours = create("flat,lam_max=1,move=no")
    theirs = Mixup(1.0, num_classes=5, label_smoothing=0.0)
    np.random.seed(3)
    mixed, soft = ours(images, target)
    np.random.seed(3)
    expected, expected_soft = theirs(images.clone(), target)
    assert torch.allclose(mixed, expected, atol=1e-5) and torch.allclose(soft, expected_soft, atol=1e-6)


def test_controls_know_the_truth_another_images_truth_or_nothing_and_quality_is_where_the_mass_lies():
    truth, images = Truth(), torch.randn(3, 3, 16, 24)
    truth.mask = torch.zeros(3, 1, 16, 24)
    for i in range(3):
        truth.mask[i, :, 4 * i : 4 * i + 4, :6] = 1
    oracle, shuffled, flat = (Control(kind, truth)(images, None) for kind in ("oracle", "shuffled", "flat"))
    assert torch.equal(oracle, truth.mask) and torch.equal(shuffled, truth.mask[[2, 0, 1]]) and (flat == 1).all()
    assert map_quality(oracle, truth.mask) == {"on_object": 1, "pointing": 1}
    assert map_quality(shuffled, truth.mask) == {"on_object": 0, "pointing": 0}
    assert map_quality(flat, truth.mask)["on_object"] == pytest.approx(1 / 16, abs=1e-3)


@pytest.mark.slow
def test_a_study_runs_resumes_and_draws(image_folder, tmp_path, capsys, monkeypatch):
    file, picture = tmp_path / "runs.jsonl", tmp_path / "plot.png"
    arms = ["none", "gradient,grid=8", "spectral,move=no,epochs=3"]
    study.main(arguments(image_folder, "--arms", *arms, "--seeds", 0, 1, "--json", file))
    runs = report.read(file)
    assert [(run["seed"], run["arm"]) for run in runs] == list(itertools.product((0, 1), arms))
    for run in runs:
        assert run["seconds"] > 0 and min(run[key] for key in ("accuracy", "nll", "ece")) >= 0
        assert (run["auxiliary_seconds"] > 0) == (run["arm"] == "gradient,grid=8")
        assert ("mask_sd" in run) == (run["arm"] != "none")
    out = capsys.readouterr().out
    assert re.search(r"^none, seed 0: about \d+\.\d minutes for 2 epochs$", out, re.MULTILINE)
    assert "24 training and 6 test images of 3 classes" in out and out.count("auxiliary model, seed") == 2
    assert re.search(r"^gradient,grid=8, seed 1: [\d.]+ %, \d+ s$", out, re.MULTILINE)

    monkeypatch.setattr(study.Study, "run", lambda *a: pytest.fail("a run that is done was repeated"))
    study.main(arguments(image_folder, "--arms", *arms, "--seeds", 0, 1, "--json", file, "--plot", picture))
    assert report.table(runs) in capsys.readouterr().out and picture.stat().st_size > 5000
    report.main([str(file), "--against", "none"])
    out = capsys.readouterr().out
    assert "model narrow, epochs 2" in out and report.table(runs, "none") in out
    monkeypatch.undo()
    study.main(arguments(image_folder, "--arms", "none", "--seeds", 0, "--lr", 0.05, "--json", file))
    assert len(report.read(file)) == len(runs) + 1, "another recipe is another run"


def test_runs_on_other_images_in_a_folder_of_the_same_name_are_not_reused(image_folder, tmp_path, capsys, trained):
    files = ["--json", tmp_path / "runs.jsonl", "--cache", tmp_path / "cache", "--arms", "gradient,grid=8"]
    study.main(arguments(image_folder, "--seeds", 0, *files))
    copy = tmp_path / "copy" / image_folder.name
    shutil.copytree(image_folder, copy)
    study.main(arguments(copy, "--seeds", 0, *files))
    assert "0 of 1 runs are left" in capsys.readouterr().out
    for split in ("train", "validation"):
        picture = min((copy / split).glob("*/*"))
        with Image.open(picture) as image:
            ImageOps.invert(image.convert("RGB")).save(picture)
        study.main(arguments(copy, "--seeds", 0, *files))
        out = capsys.readouterr().out
        assert "1 of 1 runs are left" in out and "auxiliary model, seed 0:" in out


def test_no_run_is_begun_that_would_end_too_late(image_folder, tmp_path, capsys, monkeypatch):
    clock, file = [0.0], tmp_path / "runs.jsonl"
    monkeypatch.setattr(study.time, "monotonic", lambda: clock[0])

    def took(self, arm, seed):
        clock[0] += 50
        return record(arm, seed, 50.0) | {"recipe": self.recipe}

    monkeypatch.setattr(study.Study, "run", took)
    asked = arguments(image_folder, "--arms", "none", "mixup", "--seeds", 0, 1, "--json", file, "--minutes", 2.9)
    for count, left in ((3, "mixup, seed 1 and what follows would end after 2.9 minutes"), (4, "1 of 4 runs are left")):
        study.main(asked)
        assert len(report.read(file)) == count and left in capsys.readouterr().out


def test_runs_are_equal_but_for_the_mixing(image_folder, monkeypatch):
    """Same seed: same weights at the start, same images in the same order, whatever the arm draws."""
    seen, create, batch = [], study.Study.create_model, study.Study.batch

    def recorded_create(self, name):
        model = create(self, name)
        seen.append(torch.cat([p.flatten() for p in model.parameters()]))
        return model

    def recorded_batch(self, index, generator):
        seen.append(batch(self, index, generator))
        return seen[-1].clone()

    monkeypatch.setattr(study.Study, "create_model", recorded_create)
    monkeypatch.setattr(study.Study, "batch", recorded_batch)
    lesson, records = None, []
    options = study.parse(arguments(image_folder, "--randaugment", "--random-erasing", 0.5))
    for arm, seed in (("none", 0), ("flat+cutmix", 0), ("none", 0), ("none", 1)):
        seen.clear()
        records.append(study.Study(options).run(arm, seed))
        lesson = lesson or list(seen)
        same = all(torch.equal(a, b) for a, b in zip(seen, lesson, strict=True))
        assert same == (seed == 0), arm
    assert records[0]["accuracy"] == records[2]["accuracy"]


def test_auxiliary_models_are_kept_and_taken_back_and_their_time_counts(image_folder, tmp_path, monkeypatch):
    kept = ["--cache", tmp_path / "kept"]
    made = study.Study(study.parse(arguments(image_folder, *kept)))
    model, seconds = made.auxiliary(0)
    again = study.Study(study.parse(arguments(image_folder, *kept, "--epochs", 7, "--prob", 0.1)))
    monkeypatch.setattr(again, "train", lambda *a, **k: pytest.fail("trained again"))
    other, same = again.auxiliary(0)
    assert same == seconds
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    with pytest.raises(pytest.fail.Exception):
        again.auxiliary(1)
    made.auxiliaries[0] = model, 100.0
    for arm, extra in (("feature+cutmix", 100), ("mixup", 0)):
        record = made.run(arm, 0)
        assert extra < record["seconds"] < extra + 50 and record["auxiliary_seconds"] == extra


def test_a_teachers_maps_are_made_once_of_whole_images(image_folder, tmp_path, monkeypatch, tiny_model):
    teachers = iter([create_saliency("gradient", model=tiny_model, size=16)])
    monkeypatch.setattr("scripts.study.training.create_teacher", lambda *_: next(teachers))
    made, again = (study.Study(study.parse(arguments(image_folder, "--cache", tmp_path))) for _ in range(2))
    for each in (made, again):
        assert each.run("teacher,epochs=1", 0)["auxiliary_seconds"] > 0
    assert made.known.shape == (24, 1, 24, 24) and torch.equal(made.known, again.known)
    assert made.known.flatten(1).std(1).min() > 0 and made.show(Arm.parse("none")) == 0 and made.known is None


def test_calibration_is_that_of_the_test_images(image_folder):
    """A model that is 80 % sure of class 0, right on 2 of 6 images."""
    made = study.Study(study.parse(arguments(image_folder)))

    class Sure(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[0.8, 0.1, 0.1]]).log().expand(len(images), 3)

    tested = made.test(Sure())
    assert tested["accuracy"] == pytest.approx(100 / 3, abs=0.01)
    assert tested["ece"] == pytest.approx(100 * (0.8 - 1 / 3), abs=0.2)
    assert tested["nll"] == pytest.approx(-(np.log(0.8) + 2 * np.log(0.1)) / 3, abs=0.01)


def test_masks_are_cropped_and_flipped_with_the_images(image_folder):
    """White objects on black: the mask that the oracle gets is where the image is white."""
    made = study.Study(study.parse(arguments(image_folder, *SMALL)))
    assert made.recipe["object_share"] == [0.25] and made.images.shape[-2:] == (32, 32)
    made.images = (255 * made.mask).expand(-1, 3, -1, -1)
    index = torch.arange(24)
    images = made.batch(index, torch.Generator().manual_seed(0))
    middle = (made.normalized(torch.tensor(127.5)))[:, :1]
    assert ((images[:, :1] > middle) == (made.truth.mask > 0)).float().mean() > 0.99
    assert not torch.equal(made.truth.mask, made.mask.float())
    oracle = Arm.parse("oracle").create(3, 1.0, None, made.truth, made.statistics)
    assert oracle.saliency(images, None)[0].sum() == made.truth.mask[0].sum()


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


def boxes(folder, **changed):
    """A file of boxes for the images of a folder: the one of `0.png` is 3 rows of 9 columns in the corner."""
    file = folder / "boxes.json"
    known = {f"{i}.png": [0, 0, 8, 2] if i == 0 else [4, 4, 11, 15] for i in range(8)}
    file.write_text(json.dumps(known | {f"{name}.png": box for name, box in changed.items()}))
    return file


def test_boxes_are_the_true_masks_of_photographs(image_folder, tmp_path):
    made = study.Study(study.parse(arguments(image_folder, "--boxes", boxes(tmp_path))))
    assert made.mask.shape == (24, 1, 24, 24) and made.mask[0, 0, :3, :9].all() and made.mask[0].sum() == 27
    half = study.Study(study.parse(arguments(image_folder, "--size", 12, "--boxes", boxes(tmp_path))))
    assert half.mask[1, 0, 2:8, 2:6].all() and half.mask[1].sum() == 24
    other = study.Study(study.parse(arguments(image_folder, "--boxes", boxes(tmp_path, **{"1": [0, 0, 1, 1]}))))
    assert made.recipe["digest"] != other.recipe["digest"] and made.recipe["boxes"] == "boxes.json"
    record = made.run("oracle,epochs=1", 0)
    assert record["on_object"] == 1 and record["moved"] > 50


@pytest.mark.parametrize("box", [None, [0, 0, 24, 3], [5, 0, 4, 3], [0, 0, 3], "all"])
def test_unfit_boxes_are_refused(box, image_folder, tmp_path):
    with pytest.raises(SystemExit, match=r"--boxes must give .* inside 3.png of 24 x 24 px, got"):
        study.Study(study.parse(arguments(image_folder, "--boxes", boxes(tmp_path, **{"3": box}))))


def test_crops_are_those_of_torchvision():
    """Their distribution, and the pixels of each."""
    size, scale, ratio = (48, 40), (0.35, 1.0), (3 / 4, 4 / 3)
    drawn = draw_crops(4000, size, scale, ratio, torch.Generator().manual_seed(0))
    transform, frame = v2.RandomResizedCrop(size, scale, ratio), torch.zeros(1, *size)
    theirs = [[*transform.make_params([frame]).values()] for _ in range(4000)]  # top, left, height, width
    theirs = torch.tensor(theirs, dtype=torch.float32)
    for measure in (torch.mean, torch.std):
        assert torch.allclose(measure(drawn, 0), measure(theirs, 0), atol=0.6)
    ends = [(each[:, :2] + each[:, 2:] == torch.tensor(size)).float().mean(0) for each in (drawn, theirs)]
    assert torch.allclose(*ends, atol=0.03), "crops that end at the image's edge"
    images, boxes, flip = torch.rand(50, 3, *size), drawn[:50], torch.arange(50) % 2 == 1
    for nearest, way in ((False, "bilinear"), (True, "nearest-exact")):
        interpolation = v2.InterpolationMode(way)
        for image, box, mirrored, ours in zip(images, boxes, flip, crop(images, boxes, flip, nearest), strict=True):
            expected = v2.functional.resized_crop(image, *box.int().tolist(), list(size), interpolation)
            assert torch.allclose(ours, expected.flip(-1) if mirrored else expected, atol=1e-4)


def test_randaugment_and_erasing_change_the_images_alone():
    images = torch.randint(0, 256, (40, 3, 24, 24), dtype=torch.uint8)
    results, left = [], torch.get_rng_state()
    for more in ((False, 0.0), (True, 0.0), (False, 0.5), (False, 0.5)):
        augment = Augmentation((0.5, 1), (1, 1), *more, "cpu")
        random.seed(len(results))
        results.append(augment(images, images[:, :1], lambda x: x / 255, torch.Generator().manual_seed(0)))
    (plain, mask), (varied, _), (erased, _), (again, _) = results
    changed = [(plain != each).flatten(1).any(1).float().mean() for each in (varied, erased)]
    assert changed[0] > 0.7 and 0.2 < changed[1] < 0.8 and torch.equal(erased, again)
    assert all(torch.equal(mask, each) for _, each in results) and torch.equal(left, torch.get_rng_state())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prob", 2], "argument --prob: must lie in [0, 1], got 2"),
        (["--batch-size", 7], "--batch-size must be even, got 7"),
        (["--part", 1], "--part 1 needs --train-images"),
        (["--object-share", 0.5, 0.1], "--object-share must be one share or a lower and an upper one, got [0.5, 0.1]"),
        (["--scale", 0.5, 0.1], "--scale must be a lower and an upper bound, got 0.5 0.1"),
        (["--object-share", 0.5, "--boxes", "x"], "--boxes must stand without --object-share"),
        (["--boxes", "no/such/boxes.json"], "no/such/boxes.json"),
        (["--held-out", 24], "must fit into the training images, got 0 left"),
        (["--train-split", "nowhere"], "must hold the folders nowhere and validation with a folder for each class"),
        (["--device", "nothing"], "error: "),
        (["--json", "no/such/folder/runs.jsonl"], "no/such/folder/runs.jsonl"),
    ],
)
def test_unfit_flags_are_refused_before_anything_is_trained(flags, message, image_folder, monkeypatch, capsys):
    monkeypatch.setattr(study.Study, "run", lambda *a: pytest.fail("trained"))
    with pytest.raises(SystemExit) as caught:
        study.main(arguments(image_folder, *flags))
    text = str(caught.value.code) if caught.value.code != 2 else capsys.readouterr().err.splitlines()[-1]
    assert message in text and "\n" not in text


def test_images_of_any_size_are_resized_and_splits_must_fit(image_folder, tmp_path):
    """Their middle square, as torchvision does it; the size is part of the recipe, the precision that of the device."""
    shutil.copytree(image_folder, tmp_path / "odd")
    shutil.move(tmp_path / "odd" / "validation" / "class2", tmp_path / "odd" / "validation" / "class9")
    with pytest.raises(SystemExit, match="the same classes, got class2, class9 in one alone"):
        study.main(arguments(tmp_path / "odd"))
    shutil.copytree(image_folder, tmp_path / "sizes")
    _, *others = sorted((tmp_path / "sizes" / "train").rglob("*.png"))
    for path in others:
        Image.open(path).resize((30, 36)).save(path)
    with pytest.raises(SystemExit, match=r"of one size, got several in .*; set --size, such as 64"):
        study.main(arguments(tmp_path / "sizes"))
    made = study.Study(study.parse(arguments(tmp_path / "sizes", "--size", 12)))
    assert made.images.shape == (24, 3, 12, 12) and made.test_images.shape == (6, 3, 12, 12)
    with Image.open(others[-1]) as picture:
        expected = picture.convert("RGB").resize((12, 14), Image.Resampling.BILINEAR).crop((0, 1, 12, 13))
    assert np.abs(np.asarray(expected).astype(int) - made.images[-1].permute(1, 2, 0).numpy()).max() <= 1
    assert (made.recipe["size"], made.recipe["precision"]) == (12, "fp32")


def test_no_run_is_lost_or_taken_for_another(image_folder, tmp_path, capsys, monkeypatch, trained):
    """A damaged file, an arm that fails, a repeated arm or seed, another split."""
    file = tmp_path / "runs.jsonl"
    ask = arguments(image_folder, "--arms", "none", "none", "--seeds", 0, 0, "--json", file)
    study.main(ask)
    assert len(report.read(file)) == 1
    file.write_text(file.read_text() + '[1]\n{"arm": "no')
    run = study.Study.run
    monkeypatch.setattr(study.Study, "run", lambda self, arm, seed: run(self, arm, seed) if arm == "none" else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        study.main(arguments(image_folder, "--arms", "none", "mixup", "--seeds", 0, 1, "--json", file))
    out, err = capsys.readouterr()
    assert err.count("is no run of the study and is left out") == 2 and "| none | 1 |" in out
    study.main(arguments(image_folder, "--arms", "none", "--seeds", 0, 1, "--json", file))
    assert [run["seed"] for run in report.read(file)] == [0, 1]
    assert "| none | 2 |" in capsys.readouterr().out
    study.main([*ask, "--test-split", "train"])
    assert len(report.read(file)) == 3


@pytest.fixture
def tiny(tmp_path):
    """Classes of 12, 12 and 5 photographs of 64 px; the box of photograph i covers (i + 1)^2 pixels."""
    for label, count in (("a", 12), ("b", 12), ("c", 5)):
        folder = tmp_path / "tiny" / "train" / label
        (folder / "images").mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (64, 64), (0, 20 * i, 0)).save(folder / "images" / f"{label}{i}.png")
        lines = [f"{label}{i}.png\t3\t5\t{3 + i}\t{5 + i}" for i in range(count)]
        (folder / f"{label}_boxes.txt").write_text("\n".join(lines))
    return [str(tmp_path / "tiny"), str(tmp_path / "out")]


@pytest.mark.parametrize(
    ("flags", "chosen", "test"),
    [(["--low", 0], range(12), 2), (["--low", 0, "--high", 100 / 64**2, "--test", 1], range(10), 1),
     (["--low", 4 / 64**2, "--classes", 1], range(1, 12), 2), (["--low", 0, "--train", 2, "--test", 3], range(12), 3)],
)  # fmt: skip
def test_photographs_are_chosen_by_the_share_of_their_box(flags, chosen, test, tiny):
    out, train = Path(tiny[1]), 2 if "--train" in flags else len(chosen) - test
    photographs.main([*tiny, *map(str, flags)])
    boxes = json.loads((out / "boxes.json").read_text())
    for label in "a" if "--classes" in flags else "ab":
        names = [[path.name for path in (out / split / label).iterdir()] for split in ("train", "validation")]
        assert [len(each) for each in names] == [train, test] and not set(names[0]) & set(names[1])
        assert {*names[0], *names[1]} <= {f"{label}{i}.png" for i in chosen}
        assert boxes[names[0][0]] == [3, 5, 3 + int(names[0][0][1:-4]), 5 + int(names[0][0][1:-4])]
    assert len(boxes) == len(list(out.glob("*/*/*")))


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--low", 0.5], "--low must be at most --high"), (["--low", 0.9, "--high", 1], "must hold train/CLASS")],
)
def test_photographs_that_cannot_be_made_are_told(flags, message, tiny, capsys):
    with pytest.raises(SystemExit) as caught:
        photographs.main([*tiny, *map(str, flags)])
    assert message in f"{caught.value}{capsys.readouterr().err}" and not Path(tiny[1]).exists()


def record(arm, seed, accuracy, share=None, **more):
    return {"arm": arm, "seed": seed, "accuracy": accuracy, "seconds": 10.0, "recipe": {"object_share": share}} | more


def test_the_table_compares_by_seed_with_the_best_baseline():
    runs = [record("mixup", seed, value) for seed, value in enumerate((60.0, 64.0, 62.0))]
    runs += [record("none", seed, value) for seed, value in enumerate((61.0, 63.5, 61.0))]
    runs += [record("gradient", seed, value, on_object=0.5) for seed, value in enumerate((62.0, 65.5, 64.1))]
    runs += [record("flat", 0, 99.0), record("cutmix", 1, 70.0)]
    accuracies, measures = report.table(runs).split("\n\n")
    assert accuracies.splitlines() == [
        "| arm | seeds | accuracy % ± sd | against mixup ± s.e. | against none ± s.e. | against cutmix ± s.e. |",
        "| --- | --- | --- | --- | --- | --- |",
        "| flat | 1 | 99.00 | +39.00 on 1 | +38.00 on 1 |  |",
        "| cutmix | 1 | 70.00 | +6.00 on 1 | +6.50 on 1 |  |",
        "| gradient | 3 | 63.87 ± 1.76 | **+1.87 ± 0.19** | **+2.03 ± 0.61** | -4.50 on 1 |",
        "| mixup | 3 | 62.00 ± 2.00 |  | +0.17 ± 0.60 | -6.00 on 1 |",
        "| none | 3 | 61.83 ± 1.44 | -0.17 ± 0.60 |  | -6.50 on 1 |",
    ]
    assert measures.splitlines()[0] == "| arm | accuracy % | seconds | mass on object |"
    assert "| gradient | 63.87 | 10 | 0.5 |" in measures and "| mixup | 62 | 10 |  |" in measures
    assert "against cutmix" in report.table(runs, "cutmix").split("|")[4]


@pytest.mark.parametrize(
    ("gains", "found"),
    [
        ((2.0, 3.0, 4.0), "better (+3.00 points, standard error 0.58 on 3 seeds, more than two standard errors)."),
        ((-1.0, 1.0, 3.0), "no difference shown (+1.00 points, standard error 1.15 on 3 seeds, within two standard"),
        ((1.0, 3.0), "+2.00 points on 2 common seeds, too few to tell."),
    ],
)
def test_the_summary_says_what_the_numbers_show(gains, found):
    runs = [record("none", seed, 50.0 + seed, auxiliary_seconds=0.0) for seed in range(len(gains))]
    runs += [record("gradient", s, 50.0 + s + gain, auxiliary_seconds=4.0) for s, gain in enumerate(gains)]
    text = report.summary(runs)
    assert f"SAGE, gradient against no mixing: {found}" in text and text.count(" against ") == 1
    assert "| 10.0 | 4.0 |" in text and "| no mixing |" in text
