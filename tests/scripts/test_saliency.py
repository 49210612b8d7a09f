"""The training of saliency networks: what is learnt lies where the object is, and an interruption changes nothing."""

import json

import pytest
import torch
import torch.nn.functional as F
from photographs import gains, load
from PIL import Image

from sage_timm import Saliency, create_saliency
from sage_timm.saliency.network import Network, SaliencyNetwork
from scripts.saliency import boxes, measure, training
from scripts.saliency.__main__ import main
from scripts.saliency.lessons import Lesson, prepare, read
from scripts.saliency.teacher import create_teacher, packaged_model, teach
from scripts.saliency.training import Trainer, folded, with_norms
from scripts.saliency.views import parts, small


def bright(side=128, top=32, left=64, length=32):
    """A lesson of dark photographs with one bright square, which the teacher's map knows."""
    images = torch.randint(0, 40, (16, 3, side, side), dtype=torch.uint8)
    images[:, :, top : top + length, left : left + length] += 200
    maps = torch.zeros(16, side, side)
    maps[:, top : top + length, left : left + length] = 1
    maps = F.adaptive_avg_pool2d(maps, 14)
    return Lesson(images, (maps / maps.sum((1, 2), keepdim=True)).half(), torch.zeros(16, 56, 56, dtype=torch.uint8))


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def on_bright(images, target):
    """The share of the target's mass on cells that are bright."""
    light = F.adaptive_avg_pool2d(images.mean(1, keepdim=True), target.shape[-1])
    return (target * (light > 0.3)).sum() / target.sum()


def test_parts_carry_their_targets_along(generator):
    lesson = bright()
    for _ in range(5):
        images, target = parts(lesson, torch.arange(16), 96, generator)
        assert images.shape == (16, 3, 96, 96) and target.shape == (16, 1, 24, 24)
        assert torch.allclose(target.sum((1, 2, 3)), torch.ones(16))
        assert on_bright(images, target) > 0.7


def test_small_images_carry_their_targets_along(generator):
    lesson = bright()
    dark = Lesson(torch.zeros_like(lesson.images), lesson.maps, lesson.masks)
    for _ in range(10):
        images, target = parts(lesson, torch.arange(16), 96, generator)
        others = parts(dark, torch.arange(16), 96, generator)
        shown, found = small(images, target, others, generator)
        light = F.adaptive_max_pool2d(shown.mean(1, keepdim=True), 24)
        mass = (found * (light > 0.2)).sum((1, 2, 3))
        assert shown.shape == images.shape and found.shape == target.shape
        assert torch.allclose(found.sum((1, 2, 3)), torch.ones(16), atol=1e-4) and mass.mean() > 0.6


def test_boxes_confine_what_is_learnt_unless_the_map_lies_elsewhere():
    lesson = bright()
    lesson.masks[0, 14:28, 28:35] = 1  # the left half of the square
    lesson.masks[1, 50:, :5] = 1  # nothing of it
    target = lesson.target(torch.arange(3), 56)
    assert target[0, 0, :, 36:].sum() == 0 and target[0].sum() > 0
    assert torch.equal(target[1], target[2])


def test_norms_are_folded_exactly():
    network, images = with_norms(SaliencyNetwork(8)), torch.randn(4, 3, 32, 48)
    network.train()
    network(images)
    network.eval()
    assert torch.allclose(folded(network)(images), network(images), atol=1e-5)


@pytest.mark.slow
def test_a_network_learns_where_the_square_is(monkeypatch):
    monkeypatch.setattr(training, "BATCH", 16)
    monkeypatch.setattr(training, "SIDES", (64,))
    torch.manual_seed(0)
    trainer = Trainer(SaliencyNetwork(4), bright(), 40, 1e-2, 0.25, False, 0)
    losses = [trainer.step() for _ in range(40)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@pytest.fixture
def folder(tmp_path):
    where = tmp_path / "photographs" / "any"
    where.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for i in range(12):
        pixels = torch.randint(0, 255, (40, 60, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(where / f"{i:02}.png")
    return where.parent


def run(folder, checkpoint, out, *flags):
    given = ["--images", str(folder), "--teacher-checkpoint", checkpoint, "--cache", str(folder.parent / "cache")]
    main([str(out), *given, "--steps", "4", "--picture", "2", *flags])
    return out.read_bytes()


@pytest.mark.slow
def test_the_command_writes_weights_a_picture_and_figures(folder, checkpoint, tmp_path, capsys):
    (folder / "boxes.json").write_text(json.dumps({f"{i:02}.png": [20, 10, 40, 30] for i in range(12)}))
    run(folder, checkpoint, tmp_path / "own.safetensors")
    said = capsys.readouterr().out
    assert "1 photographs held out" in said and "network: " in said and "11 photographs" in said
    assert (tmp_path / "own.png").stat().st_size > 1000
    assert Network(tmp_path / "own.safetensors")(torch.rand(2, 3, 64, 64)).shape == (2, 1, 24, 24)


@pytest.mark.slow
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(folder, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.saliency.__main__.KEEP_EVERY", 2)
    whole = run(folder, checkpoint, tmp_path / "whole.safetensors")
    for file in (tmp_path / "cache").glob("training-*"):
        file.unlink()
    step = Trainer.step

    def interrupted(self):
        if self.done == 3:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        with pytest.raises(SystemExit, match="the same command goes on"):
            run(folder, checkpoint, tmp_path / "parts.safetensors")
    assert run(folder, checkpoint, tmp_path / "parts.safetensors") == whole


def test_maps_are_computed_once(folder, tmp_path):
    calls = []

    class Teacher(Saliency):
        def raw(self, images, target):
            calls.append(len(images))
            return images.mean(1, keepdim=True)

    lessons = [prepare(folder, Teacher(), tmp_path / "cache") for _ in range(2)]
    assert calls == [12, 12], "the photographs and their mirror images, once"
    assert len(lessons[0]) == 12 and torch.equal(lessons[0].maps, lessons[1].maps)
    assert len(prepare(folder, Teacher(), tmp_path / "cache", count=5)) == 5


@pytest.mark.parametrize("kind", ["masks", "voc", "yolo", "tiny"])
def test_boxes_of_other_annotations(kind, folder, tmp_path):
    given = tmp_path / kind
    given.mkdir()
    if kind == "masks":
        mask = torch.zeros(40, 60, dtype=torch.uint8)
        mask[10:30, 24:48] = 255
        Image.fromarray(mask.numpy()).save(given / "03.png")
    elif kind == "voc":
        edges = "<xmin>24</xmin><ymin>10</ymin><xmax>47</xmax><ymax>29</ymax>"
        (given / "03.xml").write_text(f"<annotation><object><bndbox>{edges}</bndbox></object></annotation>")
    elif kind == "yolo":
        (given / "03.txt").write_text("7 0.6 0.5 0.4 0.5\n")
    else:
        (given / "boxes.txt").write_text("03.png n01 24 10 47 29\n")
    boxes.main([str(folder), f"--{kind}", str(given)])
    assert json.loads((folder / "boxes.json").read_text())["03.png"] == [pytest.approx([24, 10, 47, 29])]


@pytest.mark.parametrize(("name", "least", "mean"), [("feature", 1.5, 2.0), ("gradient", 1.15, 1.3)])
def test_the_maps_of_the_packaged_classifier_find_the_object(name, least, mean):
    names = ["coffee.png", "camera.png", "rocket.jpg"]
    source = create_saliency(name, model=packaged_model(), size=224, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = gains(source(load(names)), names)
    assert min(found) > least and sum(found) / len(found) > mean, found


def test_the_teacher_sees_mirror_images_alike():
    photographs = load()
    teacher = create_teacher(None, None, 64)
    maps = teach(teacher, photographs)
    assert maps.shape == (5, 14, 14) and torch.allclose(maps.sum((1, 2)), torch.ones(5), atol=1e-5)
    assert torch.allclose(teach(teacher, photographs.flip(3)), maps.flip(2), atol=1e-5)


def test_boxes_follow_their_photographs(folder):
    picture = Image.new("RGB", (896, 448))
    picture.paste((255, 0, 0), (300, 100, 500, 200))
    picture.save(folder / "wide.png")
    image, mask = read(folder / "wide.png", [[300, 100, 499, 199]])
    assert image.shape == (3, 224, 224) and mask.shape == (56, 56)
    red = F.adaptive_avg_pool2d(image[:1].float(), 56)[0] > 127
    assert (red == mask.bool()).float().mean() > 0.98 and mask.sum() > 200


@pytest.mark.slow
def test_a_table_of_sources(folder, capsys):
    (folder / "boxes.json").write_text(
        json.dumps({"03.png": [20, 10, 40, 30], "04.png": [[20, 10, 40, 30], [0, 0, 3, 3]]})
    )
    measure.main([str(folder), "--sources", "network", "network:32", "spectral:32"])
    measure.main([str(folder), "--object-share", "0.25", "--sources", "spectral"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "photographs," in line]
    assert [row[0] for row in rows] == ["| photographs, 2"] * 3 + ["| photographs, 3"]
    assert all(0 < float(row[3].split(",")[0]) < 1 for row in rows)


def test_photographs_without_boxes_are_told_before_anything_is_printed(folder, capsys):
    with pytest.raises(SystemExit, match=r"must hold photographs and a boxes\.json"):
        measure.main([str(folder)])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (main, ["out.pth", "--images", "F"], "OUT must be a file that ends in .safetensors"),
        (main, ["o.safetensors", "--images", "F:-3"], "with a COUNT of at least 1, got F:-3"),
        (measure.main, ["F:x"], "with a COUNT of at least 1, got F:x"),
        (measure.main, ["F", "--sources", "nonsense"], "--sources: `saliency` must be one of"),
        (measure.main, ["F", "--sources", "network:abc"], "NAME or NAME:SIZE, got network:abc"),
        (measure.main, ["nowhere", "--sources", "spectral"], "must be a folder of photographs"),
    ],
)
def test_wrong_commands_are_one_line(command, arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        command(arguments)
    assert message in str(error.value) + capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"03.png": [1, 2, 3]}', '{"03.png": ["a", 2, 3, 4]}', '{"03.png": 7}']
)
def test_broken_boxes_are_told(content, folder):
    (folder / "boxes.json").write_text(content)
    with pytest.raises(SystemExit, match=r"boxes\.json must map file names to boxes"):
        measure.main([str(folder), "--sources", "spectral"])


@pytest.mark.parametrize(("kind", "text"), [("yolo", "0 5 5 9 9"), ("yolo", "0 a b"), ("voc", "<annotation>")])
def test_annotations_that_do_not_fit_are_told_by_file(kind, text, folder, tmp_path):
    file = tmp_path / "given" / ("03.txt" if kind == "yolo" else "03.xml")
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(SystemExit, match=r"03\.\w+ must hold the boxes of 03\.png"):
        boxes.main([str(folder), f"--{kind}", str(file.parent)])
