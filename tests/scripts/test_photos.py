import pytest
import torch
from PIL import Image

from scripts.study import photos

XML = """<annotation><filename>{name}</filename>
<object><bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object></annotation>"""


@pytest.fixture
def folder(tmp_path):
    """A photograph of 896 x 448 with a red box, one that is nearly all box, and a box without its photograph."""
    for name, box in (("a.jpg", (300, 100, 500, 200)), ("b.jpg", (0, 0, 896, 440)), ("gone.jpg", (1, 1, 9, 9))):
        (tmp_path / name).with_suffix(".xml").write_text(XML.format(*box, name=name))
        if name != "gone.jpg":
            picture = Image.new("RGB", (896, 448))
            picture.paste((255, 0, 0), box)
            picture.save(tmp_path / name)
    return tmp_path


def test_boxes_follow_their_photographs(folder):
    images, mask = photos.boxed(folder, folder)
    assert images.shape == (1, 3, 224, 224) and mask.shape == (1, 1, 224, 224), "the other is nearly all box"
    assert mask[0, 0, 50:100, 38:138].all() and mask.sum() == 50 * 100
    assert images[mask.expand_as(images).bool()].view(3, -1).float().mean(1)[0] > 240
    assert images[:, 0][mask[:, 0] == 0].float().mean() < 5


def test_a_table_of_sources(folder, capsys):
    photos.main([str(folder), "--boxes", str(folder), "--sizes", "64"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 photographs, objects cover 10 % of the frame"
    assert [line.split(" |")[0] for line in lines[3:]] == ["| feature, 64 px", "| gradient, 64 px", "| spectral"]
    assert all(0 < float(line.split(" | ")[1]) < 1 for line in lines[3:])


def test_photographs_small_on_a_texture(folder):
    images, mask = photos.framed(folder, 0.25, 2)
    assert images.shape == (2, 3, 224, 224) and torch.is_tensor(mask)
    assert 0.15 < mask.float().mean() < 0.35


@pytest.mark.parametrize("flags", [[], ["--boxes", "x", "--object-share", "0.2"]])
def test_one_kind_of_truth_is_needed(flags, folder, capsys):
    with pytest.raises(SystemExit):
        photos.main([str(folder), *flags])
    assert "one of --boxes and --object-share must be given" in capsys.readouterr().err


def test_folders_without_photographs_are_told(tmp_path):
    with pytest.raises(SystemExit, match="--boxes must hold"):
        photos.boxed(tmp_path, tmp_path)
    with pytest.raises(SystemExit, match="must hold at least 2 photographs"):
        photos.framed(tmp_path, 0.2, 5)
