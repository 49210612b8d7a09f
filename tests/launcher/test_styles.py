"""Scripts that copied timm's Mixup, each in the style of its family; where a script ends and what it writes."""

import re

import pytest
from launcher.tools import SCRIPTS

SPECTRAL = ("--saliency", "spectral")


@pytest.fixture
def deit(run, image_folder):
    """Run the script in DeiT's style; return what it wrote to stderr."""

    def deit(*argv):
        return run(SCRIPTS / "deit.py", "--data-path", image_folder / "train", "--sage", *SPECTRAL, *argv)

    return deit


def test_deit_style(deit):
    err = deit("--cutmix", "0")
    assert "SAGE(lam_max=0.6), alpha 0.8" in err
    assert "normalised with mean (0.3, 0.3, 0.3), std (0.2, 0.2, 0.2)" in err
    assert err.splitlines()[-1] == "sage_timm: 3 of 3 batches were mixed, 3 of them by --sage"


def test_a_schedule_that_mixes_late_is_warned_of_and_goes_on(deit):
    err = deit("--late")
    assert "warning: --sage was given, but 10 optimizer steps saw no mixed batch so far" in err
    assert err.splitlines()[-1] == "sage_timm: 3 of 3 batches were mixed, 3 of them by --sage"


def test_pictures_go_to_the_output_of_a_script_without_a_mixup_flag(run, tmp_path):
    (tmp_path / "script.py").write_text(
        "import argparse, torch\nfrom timm.data import Mixup\np = argparse.ArgumentParser()\n"
        "p.add_argument('--output')\np.parse_known_args()\n"
        "Mixup(num_classes=3)(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))\n"
    )
    run(tmp_path / "script.py", "--output", tmp_path / "runs", "--sage", *SPECTRAL, "--save-mixed", "1")
    assert [path.name for path in (tmp_path / "runs" / "mixed").iterdir()] == ["mixed-001.png"]


@pytest.mark.parametrize("ending", ["", "sys.exit()", "sys.exit(0)"])
def test_a_script_that_exits_is_checked_all_the_same(ending, run, tmp_path, refusal):
    (tmp_path / "script.py").write_text(f"import sys\n{ending}\n")
    assert "never built timm's Mixup" in refusal(run, tmp_path / "script.py", "--sage", *SPECTRAL)
    assert "--saliency must stand beside --sage or --mixer" in refusal(run, tmp_path / "script.py", *SPECTRAL)


def test_a_script_that_parses_again_after_its_config_file(run, tmp_path):
    (tmp_path / "script.py").write_text(
        "import argparse\nfrom timm.data import Mixup\np = argparse.ArgumentParser()\np.add_argument('--mixup')\n"
        "p.add_argument('--config')\np.parse_args()\np.set_defaults(sage=True, config='')\n"
        "args = p.parse_args(['--mixup', '1.0'])\nMixup(num_classes=3)\n"
    )
    assert "sage_timm: SAGE" in run(tmp_path / "script.py", "--config", "x.yaml", *SPECTRAL)


def test_linked_scripts_find_their_neighbours(run, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "neighbour_of_a_link.py").write_text("")
    (tmp_path / "real" / "script.py").write_text("import neighbour_of_a_link\n")
    (tmp_path / "link.py").symlink_to(tmp_path / "real" / "script.py")
    run(tmp_path / "link.py")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cutmix", [0, 1])
def test_torchvision_style(workers, cutmix, run, image_folder, tmp_path):
    alphas = ["--mixup-alpha", 1 - cutmix, "--cutmix-alpha", cutmix, "--save-mixed", 2]
    where = ["--data-path", image_folder / "train", "-j", workers]
    err = run(SCRIPTS / "vision" / "train.py", "--use-v2", *where, *alphas, "--sage", *SPECTRAL).splitlines()
    if cutmix:
        assert "--mixup-alpha was 0, so sage would never mix; using --mixup-alpha 1.0" in err.pop(0)
    assert err[0].startswith("sage_timm: SAGE(lam_max=0.6), alpha=1.0, num_classes=3")
    if not workers:  # which say it themselves
        assert err[1].endswith("torch.float32 on cpu, normalised with mean (0.4, 0.5, 0.6), std (0.2, 0.3, 0.4)")
    assert sorted(path.name for path in (tmp_path / "mixed").iterdir()) == ["mixed-001.png", "mixed-002.png"]
    mixed, of, by_sage = map(int, re.findall(r"\d+", err[-1]))
    assert mixed == of == 12 and (1 <= by_sage <= 11 if cutmix else by_sage == 12)


def test_torchvision_style_without_v2_names_sagemix(run, image_folder, refusal):
    line = refusal(run, SCRIPTS / "vision" / "train.py", "--data-path", image_folder / "train", "--sage")
    assert "give --use-v2, or use SageMix as in docs/training.md" in line
