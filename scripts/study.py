"""Compare mixing methods at an equal recipe: small images, a small ResNet, many arms, several seeds, one table.

python scripts/study.py --data-dir CIFAR10 --arms none mixup cutmix gradient random,power=2 --seeds 0 1 --json FILE

An arm is NAME[,SETTING=VALUE...]. Every arm can set prob, alpha and epochs; SAGE's also blur, power and grid of their
saliency, lam_max, search_fraction, weight (mask or retained) and pairing (flip or best). Names:
{names}.
Runs that stand in --json are not repeated: after an interruption the same command goes on. Seconds on a CPU are those
of the process, over all threads; they still depend by some 10 % on what else the machine does.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from benchmark import machine
from study_arms import NAMES, Arm, look
from study_data import load_splits
from study_table import append, plot, read, table
from timm.loss import SoftTargetCrossEntropy
from timm.models.resnet import BasicBlock, ResNet
from timm.utils import random_seed

from sage_timm.checks import check_library

LAST = 5  # epochs whose mean test accuracy is the result
RECIPE = ("model", "epochs", "auxiliary_epochs", "batch_size", "lr", "prob", "train_images", "part", "held_out")
RECIPE += ("train_split", "test_split")


class Study:
    """A data set and a recipe, on a device; `run` trains one arm with one seed."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        self.recipe = {"data": Path(args.data_dir).resolve().name} | {key: getattr(args, key) for key in RECIPE}
        self.recipe["device"] = self.device.type
        train, test, self.num_classes = load_splits(args, self.device)
        self.images, self.target = train.images, train.target
        self.test_images, self.test_target = test.images, test.target
        pixels = self.images.float() / 255
        self.mean, self.std = (f(pixels, (0, 2, 3)).view(1, -1, 1, 1) for f in (torch.mean, torch.std))
        self.auxiliaries = {}
        print(f"{len(self.images)} training and {len(self.test_images)} test images of {self.num_classes} classes")

    def clock(self) -> float:
        """Seconds: wall clock on a GPU; on a CPU those of this process, whatever else the machine does."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter() if self.cuda else time.process_time()

    def create_model(self, name: str) -> ResNet:
        """Create 'resnet18' with a 3x3 stem, or 'narrow': a ResNet-10 of 16 to 128 channels, its stem of stride 2."""
        depth, width, stride = (2, 64, 1) if name == "resnet18" else (1, 16, 2)
        channels = tuple(width * 2**stage for stage in range(4))
        model = ResNet(
            BasicBlock, [depth] * 4, self.num_classes, stem_type="deep", stem_width=width // 2, channels=channels
        )
        model.conv1 = torch.nn.Conv2d(self.images.shape[1], width, 3, stride, 1, bias=False)
        model.maxpool = torch.nn.Identity()
        return model.to(self.device, memory_format=torch.channels_last)

    def normalized(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float() / 255 - self.mean) / self.std

    def augmented(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Crop each image at random after padding it by 4 pixels, and flip every other: [B, C, H, W] to the same."""

        def draw(high):
            return torch.randint(high, (len(images), 1), generator=generator, device=self.device)

        y, x = (torch.arange(side, device=self.device) + draw(9) for side in images.shape[-2:])
        x = torch.where(draw(2) > 0, x, x.flip(1))
        image = torch.arange(len(images), device=self.device)[:, None, None]
        return F.pad(images, (4, 4, 4, 4))[image, :, y[:, :, None], x[:, None]].permute(0, 3, 1, 2)

    def train(self, model, epochs: int, seed: int, mix=None, report=None) -> tuple[float, list]:
        """Train a model; return the seconds it took and its checks [epoch, seconds, test accuracy %].

        The order of the images and their augmentation depend on the seed alone, not on what is mixed.
        """
        batch, steps = self.args.batch_size, len(self.images) // self.args.batch_size
        optimizer = torch.optim.SGD(model.parameters(), self.args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.args.lr, epochs=epochs, steps_per_epoch=steps)
        generator = torch.Generator(self.device).manual_seed(seed)
        criterion, seconds, checks = SoftTargetCrossEntropy(), 0.0, []
        for epoch in range(1, epochs + 1):
            start = self.clock()
            model.train()
            order = torch.randperm(len(self.images), generator=generator, device=self.device)
            for index in order[: steps * batch].view(steps, batch):
                images, target = self.augmented(self.normalized(self.images[index]), generator), self.target[index]
                images, target = mix(images, target) if mix else (images, F.one_hot(target, self.num_classes).float())
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cuda):
                    loss = criterion(model(images), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            seconds += self.clock() - start
            if epoch > epochs - LAST or epoch % max(1, epochs // 10) == 0:
                checks.append([epoch, seconds, self.accuracy(model)])
                if report:
                    report(*checks[-1])
        return seconds, checks

    @torch.inference_mode()
    def accuracy(self, model) -> float:
        """Test accuracy in %."""
        model.eval()
        right = 0
        for images, target in zip(self.test_images.split(1000), self.test_target.split(1000), strict=True):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cuda):
                right += (model(self.normalized(images)).argmax(1) == target).sum().item()
        return 100 * right / len(self.test_target)

    def auxiliary(self, seed: int) -> tuple[torch.nn.Module, float]:
        """Train the narrow model that saliency comes from, once per seed, on the training images of the study."""
        if seed not in self.auxiliaries:
            random_seed(seed + 1000)
            model = self.create_model("narrow")
            seconds, checks = self.train(model, self.args.auxiliary_epochs, seed + 1000)
            print(f"auxiliary model, seed {seed}: {checks[-1][2]:.2f} %, {seconds:.0f} s", flush=True)
            self.auxiliaries[seed] = model, seconds
        return self.auxiliaries[seed]

    def run(self, text: str, seed: int) -> dict:
        """Train one arm with one seed and return its record."""
        arm = Arm.parse(text)
        epochs = arm.settings.get("epochs", self.args.epochs)
        extra = self.auxiliary(seed)[1] if arm.source in ("gradient", "activation") else 0.0
        random_seed(seed)
        model = self.create_model(self.args.model)
        mix = arm.create(self.num_classes, self.args.prob, model, lambda: self.auxiliary(seed)[0])

        def report(epoch, seconds, accuracy):
            print(f"{text}, seed {seed}: epoch {epoch}/{epochs}, {accuracy:.2f} %, {seconds + extra:.0f} s", flush=True)

        seconds, checks = self.train(model, epochs, seed, mix, report)
        record = {"arm": text, "seed": seed, "recipe": self.recipe, "machine": machine(self.device)}
        record["accuracy"] = statistics.mean(accuracy for *_, accuracy in checks[-LAST:])
        record["seconds"] = round(seconds + extra, 2)
        record["checks"] = [[epoch, round(at + extra, 2), round(accuracy, 2)] for epoch, at, accuracy in checks]
        return record | self.look(mix)

    def look(self, mix) -> dict:
        """Measure the plans of up to 256 training images, always the same (see `look`)."""
        index = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0))[:256].to(self.device)
        return look(mix, self.normalized(self.images[index]), F.one_hot(self.target[index], self.num_classes).float())


def number(kind, low, high=float("inf")):
    """Return an argparse type: a number of a kind in [low, high]."""

    def convert(text):
        value = kind(text)
        if not low <= value <= high or value == float("inf"):
            raise argparse.ArgumentTypeError(f"must lie in [{low}, {high}], got {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.format(names=", ".join(NAMES)), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    count, add = number(int, 1), parser.add_argument
    add("--data-dir", required=True, metavar="DIR", help="folder with an image folder for each split")
    add("--train-split", default="train", metavar="NAME")
    add("--test-split", default="test", metavar="NAME")
    add("--train-images", type=count, metavar="N", help="N in all, as many of each class (default: all)")
    add("--part", type=number(int, 0), default=0, metavar="K", help="the K-th such N images, from 0")
    add("--held-out", type=count, metavar="N", help="test on the last N training images, not the test split")
    add("--arms", nargs="+", default=["none", "mixup", "cutmix", "gradient"], metavar="ARM")
    add("--seeds", nargs="+", type=number(int, 0, 2**31), default=[0, 1, 2], metavar="SEED")
    add("--model", choices=("resnet18", "narrow"), default="resnet18")
    add("--epochs", type=count, default=100)
    add("--auxiliary-epochs", type=count, default=20, metavar="EPOCHS")
    add("--batch-size", type=number(int, 2), default=128, help="even, as timm's Mixup wants it")
    add("--lr", type=number(float, 1e-9), default=0.1)
    add("--prob", type=number(float, 0, 1), default=1.0, help="share of mixed batches in every arm that mixes")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--json", type=Path, metavar="FILE", help="read the runs that are done, add a line per run")
    add("--look", action="store_true", help="train no arm, only measure what SAGE's plans look like")
    add("--against", metavar="ARM", help="compare with this one of the arms (default: timm's best)")
    add("--plot", type=Path, metavar="FILE", help="draw the accuracies")
    args = parser.parse_args(argv)
    args.arms, args.seeds = list(dict.fromkeys(args.arms)), list(dict.fromkeys(args.seeds))
    if args.batch_size % 2:
        parser.error(f"--batch-size must be even, got {args.batch_size}")
    if args.part and not args.train_images:
        parser.error(f"--part {args.part} needs --train-images")
    if args.against and args.against not in args.arms:
        parser.error(f"--against must be one of the --arms, got {args.against}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    try:
        if args.plot:
            check_library("matplotlib", "--plot", "Matplotlib", "viz")
        for file in filter(None, (args.json, args.plot)):
            file.open("a").close()
        study = Study(args)
        narrow = study.create_model("narrow")
        for text in args.arms:
            Arm.parse(text).create(study.num_classes, args.prob, narrow, lambda: narrow)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    if args.look:
        seed = args.seeds[0]
        for text in args.arms:
            model, _ = study.auxiliary(seed)
            random_seed(seed)
            mix = Arm.parse(text).create(study.num_classes, 1.0, model, lambda model=model: model)
            print(text, study.look(mix))
        return
    asked = [(text, seed) for seed in args.seeds for text in args.arms]
    runs = [run for run in read(args.json) if run["recipe"] == study.recipe and (run["arm"], run["seed"]) in asked]
    done = {(run["arm"], run["seed"]) for run in runs}
    try:
        for text, seed in asked:
            if (text, seed) not in done:
                runs.append(study.run(text, seed))
                if args.json:
                    append(args.json, runs[-1])
    except KeyboardInterrupt:
        way = "the same command goes on" if args.json else "with --json FILE it could go on"
        raise SystemExit(f"interrupted; {way}") from None
    finally:
        if runs:
            print(table(runs, args.against))
    if args.plot:
        plot({"": runs}, args.plot)


if __name__ == "__main__":
    main()
