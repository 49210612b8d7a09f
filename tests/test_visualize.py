"""The pictures, the command that draws them, and the flags that commands share."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sage_timm import MixPlan, create_saliency
from sage_timm.methods.boxes import box_plan
from sage_timm.methods.sage import sage
from sage_timm.options import FLAGS, SALIENCY_FLAGS, in_flags
from sage_timm.visualize import __main__ as command
from sage_timm.visualize import draw_mixed, draw_plans, load_images
from sage_timm.visualize.figures import in_words

LABELS = ["--mixer-label-weight", "saliency"]


def run(pictures, *flags, output="out.pdf"):
    command.main([str(pictures), "--saliency", "spectral", "--size", "32", "-o", str(pictures / output), *flags])


@pytest.mark.parametrize(
    ("flags", "ratios"),
    [
        (["--mixer", "sage", "mixup"], "0.5 (--lam), SAGE at 0.3 (times its lam_max)\n"),
        (["--mixer", "mixup", "cutmix"], "0.5 (--lam)\n"),
        (["--lam", "0.8", "--mixer-kwargs", "lam_max=0.5", "--count", "2"], "0.8 (--lam), SAGE at 0.4"),
    ],
)
def test_the_command_says_what_it_drew(flags, ratios, pictures, capsys):
    run(pictures, *flags, output="new/folder/f.jpg")
    assert f"\ndrawn at mixing ratio {ratios}" in capsys.readouterr().out
    with Image.open(pictures / "new" / "folder" / "f.jpg") as picture:
        assert picture.format == "JPEG" and picture.width > 800


def test_labels_by_saliency(pictures):
    images, maps = torch.rand(3, 3, 24, 24), torch.rand(3, 1, 6, 6) ** 3
    asked = [command.build_parser().parse_args(["x", "--mixer", "cutmix", *flags]) for flags in ([], LABELS)]
    plain, weighted = (command.make_plans(args, images, maps)["cutmix"] for args in asked)
    seen = plain.retained(maps)
    assert torch.allclose(weighted.lam, seen / seen.sum(1, keepdim=True))


def test_errors_name_flags():
    assert in_flags("`checkpoint` must, got `other`") == "--saliency-checkpoint must, got `other`"
    assert set(FLAGS.values()) == {*SALIENCY_FLAGS, "--mixer", "--mixer-label-weight"}


def test_translations_in_words():
    assert in_words(40, -96) == "40 px down, 96 px left" and in_words(-1, 0) == "1 px up" and in_words(0, 0) == ""


def test_draw_plans_shows_the_plan_in_words():
    images, saliency = torch.rand(2, 3, 12, 20), torch.zeros(2, 1, 12, 20)
    saliency[:, :, 4:8, 6:11] = torch.rand(2, 1, 4, 5)
    partner = torch.tensor([1, 0])
    plan = sage(saliency, partner, torch.tensor([0.3, 0.3]), (12, 20))
    box = box_plan(torch.tensor([[0, 12, 0, 5], [0, 0, 0, 0]]), partner, torch.tensor([0.75, 1.0]), (12, 20))
    axes = draw_plans(images, saliency, {"sage": plan}, ["cat", "dog"]).axes
    image, heat, other_image, other_heat, mask, mixed = axes[:6]
    mask_title = "mask (white: image, black:\npartner, grey: both)"
    titles = ["image", "saliency", "partner", "partner's saliency", mask_title, "sage"]
    assert [a.get_title() for a in (image, heat, other_image, other_heat, mask, mixed)] == titles
    assert (image.get_xlabel(), other_image.get_xlabel()) == ("cat", "dog")
    own, other, partners_own = (axis.images[0].get_array().data for axis in (heat, other_heat, axes[7]))
    assert np.array_equal(other, partners_own) and not np.array_equal(other, own)
    own, other = plan.lam[0].tolist()
    kept = plan.retained(saliency)[0].tolist()
    way = in_words(*plan.translation[0, 1, :, 0, 0].tolist())
    assert mask.get_xlabel().replace("\n", " ") == f"partner moves {way}"
    words = f"cat {own:.2f}, dog {other:.2f} retained {kept[0]:.2f} + {kept[1]:.2f}"
    assert " ".join(mixed.get_xlabel().split()) == words
    assert np.allclose(mixed.images[0].get_array(), plan.mix_images(images)[0].permute(1, 2, 0))
    assert np.allclose(mask.images[0].get_array(), plan.mask[0, 0])
    axes = draw_plans(images, saliency, {"sage": plan, "cutmix": box}, ["cat", "dog"]).axes
    assert [a.get_title() for a in axes[:7]] == [*titles, "cutmix"]
    assert axes[13].get_xlabel() == "dog 1.00\nretained 1.00"


def test_grey_pictures_of_16_bit_keep_their_greys_and_names_are_no_formulas(tmp_path):
    folder = tmp_path / r"$\foo$"
    folder.mkdir()
    grey = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    for name in ("a.png", "b.png"):
        Image.fromarray(grey).save(folder / name)
    images, names = load_images([str(tmp_path)], 2, 8)
    assert images.shape == (2, 3, 8, 8) and images.mean() == pytest.approx(0.5, abs=0.01)
    assert names == [r"$\foo$"] * 2
    run(tmp_path, output="out.png")


def test_draw_mixed_is_a_grid_with_label_weights():
    images, partner = torch.rand(5, 4, 6, 8), torch.tensor([4, 3, 2, 1, 0])
    lam = torch.tensor([0.75, 1.0, 0.5, 0.5, 0.25])
    plan = MixPlan.of_pairs(partner, lam.view(-1, 1, 1, 1).expand(-1, 1, 6, 8), lam)
    axes = draw_mixed(images, plan, ["a", "b", "c", "d", "e"], most=4).axes
    assert [axis.get_xlabel() for axis in axes] == ["a 0.75, e 0.25", "b 1.00", "c 1.00", "d 0.50, b 0.50"]
    (first, *_) = draw_mixed(images, plan, list("abcde"), 32, mixers=["CutMix"] * 5).axes
    assert first.get_xlabel() == "CutMix\na 0.75, e 0.25"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "IMAGES_OR_FOLDER must exist, got 'nowhere'"),
        (["picture0.png"], "at least 2 images are needed to mix, got 1"),
        ([".", "--saliency-checkpoint", "nowhere.pth"], "--saliency-checkpoint must be an existing file"),
        (["torn"], "a.png' must be a whole image file"),
        ([".", "--lam", "1.5"], "--lam must lie in"),
        ([".", "--count", "1"], "--count must be at least 2"),
        ([".", "--size", "0"], "--size must be at least 1"),
        ([".", "--saliency-size", "0"], "--saliency-size must be at least"),
        ([".", "--mixer", "sage", "mixup", "--mixer-kwargs", "lam_max=1"], "must be of one method"),
        ([".", "--mixer-kwargs", "nonsense=1"], "sage has lam_max, got nonsense"),
        ([".", "--mixer-kwargs", "lam_max=7"], "`lam_max` must lie in (0, 1], got 7"),
        ([".", "-o", "picture0.png/x.png"], "picture0.png"),
        ([".", "-o", "x.gif"], "--output must be a file that ends in .png, .jpg"),
        ([".", "-o", "folder.png"], "--output must be a file that ends in .png, .jpg"),
    ],
)
def test_errors_are_one_line(arguments, message, pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    if "folder.png" in arguments:
        (pictures / "folder.png").mkdir()
    if "torn" in arguments:
        shutil.copytree(pictures, pictures / "torn")
        (pictures / "torn" / "a.png").write_bytes((pictures / "picture0.png").read_bytes()[:90])
    with pytest.raises(SystemExit) as caught:
        command.main([*arguments, *(["--saliency", "spectral"] if "--saliency-checkpoint" not in arguments else [])])
    assert str(caught.value).startswith("error: ") and message in str(caught.value) and "\n" not in str(caught.value)


def blocks_of(plans):
    """How often the masks change from one row of pixels to the next, at most."""
    return max((plan.mask.diff(dim=-2) != 0).any(-1).sum(-1).max() for plan in plans.values()).reshape(1)


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        (["--saliency-floor", "0"], lambda images, saliency, plans: saliency),
        (["--saliency-size", "16"], lambda images, saliency, plans: saliency),
        (["--saliency-blur", "0.3"], lambda images, saliency, plans: saliency),
        (["--saliency-grid", "4"], lambda images, saliency, plans: saliency),
        (["--mixer-kwargs", "lam_max=0.9"], lambda images, saliency, plans: plans["sage"].mask),
        (["--mixer", "comixup", "--mixer-kwargs", "block_num=2"], lambda images, saliency, plans: blocks_of(plans)),
        (["--lam", "0.2"], lambda images, saliency, plans: plans["sage"].mask),
        (["--count", "2"], lambda images, saliency, plans: images),
        (["--size", "24"], lambda images, saliency, plans: images),
        (["--saliency", "gradient"], lambda images, saliency, plans: saliency),
        (["--mixer", "mixup"], lambda images, saliency, plans: next(iter(plans.values())).mask),
    ],
)
def test_every_flag_of_visualize_shows_in_the_picture(flags, changed, pictures, monkeypatch, checkpoint):
    drawn, nothing = [], SimpleNamespace(savefig=lambda *a, **k: None)
    monkeypatch.setattr(command, "draw_plans", lambda *a: drawn.append(changed(*a[:3])) or nothing)
    fixed = ["--size", "32", "--saliency-checkpoint", checkpoint, "-o", str(pictures / "out.pdf")]
    command.main([str(pictures), *fixed])
    command.main([str(pictures), *fixed, *flags])
    assert drawn[0].shape != drawn[1].shape or not torch.allclose(drawn[0].float(), drawn[1].float(), rtol=1e-2)


def test_the_seed_decides_what_methods_draw():
    masks = []
    for seed in ("3", "3", "4"):
        args = command.build_parser().parse_args(["x", "--mixer", "cutmix", "--seed", seed])
        masks.append(command.make_plans(args, torch.rand(3, 3, 24, 24), torch.rand(3, 1, 6, 6))["cutmix"].mask)
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


def test_saliency_is_told_the_images_are_not_normalised(pictures, monkeypatch):
    seen = []
    monkeypatch.setattr(command, "create_saliency", lambda *a, **k: seen.append(k) or create_saliency(*a, **k))
    run(pictures)
    assert seen[0]["mean"] == (0.0, 0.0, 0.0) and seen[0]["std"] == (1.0, 1.0, 1.0)
