"""The report on saliency, the HTML page, and the flags that commands share."""

import argparse
import base64
import io
import re

import pytest
import torch
from PIL import Image

from sage_timm import create_saliency
from sage_timm.methods.sage import sage
from sage_timm.options import FLAGS, SALIENCY_FLAGS, in_flags, saliency_settings
from sage_timm.visualize import Report, draw_page, draw_plans, measure
from sage_timm.visualize import __main__ as command
from sage_timm.visualize.figures import in_words
from sage_timm.visualize.report import LEAST_RETAINED


def spots(where, side=(20, 24)):
    maps = torch.zeros(len(where), 1, *side)
    for map_, (y, x) in zip(maps, where, strict=True):
        map_[0, y : y + 4, x : x + 5] = 1
    return maps


def test_report_of_two_objects_at_the_same_place():
    report = measure(spots([(8, 9), (8, 9)]), (20, 24), 0.3)
    assert report.half == pytest.approx(10 / 480) and report.images == 2 and report.side == 20
    assert report.unmoved == pytest.approx(1.0), "the mask alone cannot tell the two apart"
    assert report.moved == 1 and report.distance >= 4 and report.retained > 1.9


def test_report_of_two_objects_apart():
    report = measure(spots([(2, 2), (14, 16)]), (20, 24), 0.3)
    assert report.unmoved > 1.9 and report.moved == 0 and report.distance == 0
    assert report.retained == pytest.approx(report.unmoved)


def test_report_of_flat_maps_is_mixups():
    report = measure(torch.ones(4, 1, 8, 8), (32, 32), 0.3)
    assert report.half == 0.5 and report.moved == 0
    assert report.retained == pytest.approx(1, abs=1e-5) and "little for SAGE" in report.verdict()


def test_noise_scores_as_maps_do():
    """Figures of docs/saliency.md: white noise, and noise on 4 x 4 cells, enlarged; at 32 px, ratio 0.3."""
    coarse = torch.nn.functional.interpolate(torch.rand(64, 1, 4, 4) ** 2, (32, 32), mode="bilinear")
    for name, maps in (("white noise", torch.rand(64, 1, 32, 32) ** 2), ("smooth noise", coarse)):
        report = measure(maps, (32, 32), 0.3)
        print(f"{name}: half in {report.half:.0%}, {report.moved:.0%} move, retained {report.retained:.2f}")
        assert report.retained > LEAST_RETAINED and 0.2 < report.half < 0.35


def test_report_agrees_with_the_plan():
    maps, partner = torch.rand(6, 1, 9, 7) ** 4, torch.arange(5, -1, -1)
    plan = sage(maps, partner, torch.full((6,), 0.4), (36, 28))
    report = measure(maps, (36, 28), 0.4)
    assert report.retained == pytest.approx(plan.retained(maps).sum(1).mean().item())
    still = torch.zeros(1, 17, 13, dtype=torch.bool)
    still[0, 8, 6] = True
    plan = sage(maps, partner, torch.full((6,), 0.4), (36, 28), candidates=still)
    assert report.unmoved == pytest.approx(plan.retained(maps).sum(1).mean().item())


def test_report_counts_distances_of_those_that_move():
    maps = spots([(8, 9), (2, 2), (14, 16), (8, 9)])  # the first and the last collide, the two between do not
    report = measure(maps, (20, 24), 0.3)
    assert report.moved == 0.5 and report.distance >= 4


@pytest.mark.parametrize(
    ("retained", "moved", "words"),
    [(1.04, 0.5, "little for SAGE"), (1.2, 0.04, "not for its moves"), (1.2, 0.06, "are the bright spots the objects")],
)
def test_verdicts(retained, moved, words):
    report = Report(64, 0.25, moved, 12.0, 224, 1.03, retained)
    assert words in report.verdict()
    text = "\n".join(report.lines())
    assert f"retain {retained:.2f} together" in text and "+0.03 by the mask" in text and "12 of 224 px" in text


@pytest.fixture
def pictures(tmp_path):
    for i, size in enumerate([(40, 30), (30, 50), (35, 35)]):
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / f"picture{i}.png")
    return tmp_path


def test_the_command_writes_a_page_that_needs_no_other_file(pictures, capsys):
    target = pictures / "page.html"
    command.main(
        [str(pictures), "--saliency", "spectral", "--size", "32", "-o", str(target), "--mixer", "sage", "mixup"]
    )
    text = target.read_text()
    found = re.findall(r'src="([^"]+)"', text)
    assert len(found) == 3 * 6 and all(source.startswith("data:image/jpeg;base64,") for source in found)
    assert Image.open(io.BytesIO(base64.b64decode(found[0].partition(",")[2]))).size == (128, 128)
    out = capsys.readouterr().out
    (verdict,) = re.findall(r"(?:little for SAGE|enough for SAGE|look at the picture, since)", out)
    assert "half of an image's saliency lies in" in out and "SAGE at ratio 0.3 on 3 images" in out
    assert verdict in text and "picture0" in text


def test_the_report_can_be_left_out_and_follows_the_ratio(pictures, capsys):
    fixed = [str(pictures), "--saliency", "spectral", "--size", "32", "-o", str(pictures.parent / "f.jpg")]
    command.main([*fixed, "--report", "0"])
    assert "retain" not in capsys.readouterr().out
    command.main([*fixed, "--lam", "0.8", "--sage-lam-max", "0.5", "--count", "2"])
    assert "SAGE at ratio 0.4 on 3 images" in capsys.readouterr().out
    with Image.open(pictures.parent / "f.jpg") as picture:
        assert picture.format == "JPEG"


def test_the_report_changes_no_picture_and_sees_what_the_picture_sees(tmp_path, monkeypatch, capsys):
    channels = []
    brightness = lambda images: channels.append(images.shape[1]) or images.mean(1, keepdim=True)  # noqa: E731
    monkeypatch.setattr(command, "create_saliency", lambda **_: brightness)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(9):  # the first and the last, which are drawn, are grey; the report sees colours between
        grey = number in (0, 8)
        pixels = torch.rand(20, 20).mul(255).byte().numpy() if grey else torch.rand(20, 20, 3).mul(255).byte().numpy()
        Image.fromarray(pixels).save(folder / f"picture{number}.png")
    pages = []
    for report in ("0", "5"):
        target = tmp_path / f"{report}.html"
        command.main([str(folder), "--size", "16", "--count", "2", "--report", report, "-o", str(target)])
        pages.append(re.findall(r"<td>.*?</td>", target.read_text()))
    assert pages[0] == pages[1] and len(pages[0]) == 2 * 5 and channels == [1, 1, 1]
    assert "on 5 images" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^error: --report must be 0 or at least 2, since it mixes images, got 1$"):
        command.main([str(folder), "--report", "1", "-o", str(tmp_path / "f.png")])


def test_labels_by_saliency(pictures):
    images, maps = torch.rand(3, 3, 24, 24), torch.rand(3, 1, 6, 6) ** 3
    plans = [
        command.make_plans(
            command.build_parser().parse_args([str(pictures), "--mixer", "cutmix", *flags]), images, maps
        )
        for flags in ([], ["--mixer-label-weight", "saliency"])
    ]
    seen = plans[0]["cutmix"].retained(maps)
    assert torch.allclose(plans[1]["cutmix"].lam, seen / seen.sum(1, keepdim=True))


@pytest.mark.parametrize("name", ["", "x.gif", "folder.png"])
def test_the_output_must_be_a_picture_or_a_page(name, pictures):
    (pictures.parent / "folder.png").mkdir(exist_ok=True)
    with pytest.raises(SystemExit, match=r"^error: --output must be a file that ends in .png, .jpg"):
        command.main([str(pictures), "--saliency", "spectral", "-o", str(pictures.parent / name)])


def test_folders_of_the_output_are_made(pictures):
    command.main(
        [str(pictures), "--saliency", "spectral", "--size", "32", "-o", str(pictures / "new" / "it" / "m.png")]
    )
    assert (pictures / "new" / "it" / "m.png").exists()


def test_broken_files_are_named(pictures):
    (pictures / "z.png").write_bytes((pictures / "picture0.png").read_bytes()[:90])
    with pytest.raises(SystemExit, match=r"^error: '.*z.png' must be a whole image file \(.*\); replace or remove it"):
        command.main([str(pictures), "--saliency", "spectral", "--size", "32", "-o", str(pictures / "m.png")])


def test_the_partner_stands_beside_its_image():
    images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8)
    plan = sage(maps, torch.tensor([1, 0]), torch.tensor([0.5, 0.5]), (8, 8))
    axes = draw_plans(images, maps, {"sage": plan}, ["a", "b"]).axes
    assert axes[2].get_title() == "partner"
    assert torch.equal(torch.from_numpy(axes[2].images[0].get_array().data), images[1].permute(1, 2, 0))


def test_page_escapes_names():
    images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8)
    plan = sage(maps, torch.tensor([1, 0]), torch.tensor([0.5, 0.5]), (8, 8))
    page = draw_page(images, maps, {"sage": plan}, ["<b>", "&"], ["a < b"])
    assert "&lt;b&gt;" in page and "<b>" not in page and "a &lt; b" in page


def parse(arguments):
    parser = argparse.ArgumentParser()
    for flag, settings in SALIENCY_FLAGS.items():
        parser.add_argument(flag, **settings)
    return saliency_settings(vars(parser.parse_args(arguments)))


def test_shared_flags_reach_create_saliency():
    assert parse([]) == {}
    flags = ["--saliency", "spectral", "--saliency-size", "32", "--saliency-blur", "0"]
    settings = parse([*flags, "--saliency-grid", "8", "--saliency-floor", "0.5"])
    assert repr(create_saliency(**settings)) == "spectral residual at 32 px (blur 0, grid 8, floor 0.5)"
    assert parse(["--saliency-model", "m", "--saliency-checkpoint", "c"]) == {"model": "m", "checkpoint": "c"}


def test_errors_name_flags():
    assert in_flags("`checkpoint` must, got `other`") == "--saliency-checkpoint must, got `other`"
    assert set(FLAGS.values()) == {*SALIENCY_FLAGS, "--mixer", "--mixer-label-weight"}


def test_the_command_names_its_own_flags(pictures):
    for arguments, message in ((["--lam", "2"], "--lam must lie in"), (["--size", "0"], "--size must be at least 1")):
        with pytest.raises(SystemExit, match=f"^error: {message}"):
            command.main([str(pictures), "--saliency", "spectral", *arguments])


def test_translations_in_words():
    assert in_words(40, -96) == "40 px down, 96 px left" and in_words(-1, 0) == "1 px up" and in_words(0, 0) == ""


def test_progress_is_shown_for_folders(pictures, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(command, "_progress", lambda what: lambda items: shown.append((what, len(items))) or items)
    command.main([str(pictures), "--saliency", "spectral", "--size", "32", "-o", str(pictures / "f.png")])
    assert shown == 2 * [("reading images", 3), ("saliency", 1)], "once for the picture, once for the report"
