"""Compare mixing methods at an equal recipe: small images, a small ResNet, many arms, several seeds, one table.

python scripts/study.py --data-dir CIFAR10 --arms none mixup cutmix gradient random,power=2 --seeds 0 1 --json FILE

An arm is NAME[,SETTING=VALUE...]. Every arm can set prob, alpha and epochs; SAGE's also blur, power and grid of their
saliency, lam_max, search_fraction, weight (mask or retained) and pairing (flip or best). Names:
{names}.
Runs that stand in --json are not repeated: after an interruption the same command goes on.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from benchmark import machine
from study_arms import NAMES, Arm, look
from study_table import plot, read, table
from timm.loss import SoftTargetCrossEntropy
from timm.models.resnet import BasicBlock, ResNet
from timm.utils import random_seed
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

LAST = 5  # epochs whose mean test accuracy is the result
RECIPE = ("model", "epochs", "auxiliary_epochs", "batch_size", "lr", "prob", "train_images", "part", "held_out")


class Study:
    """A data set and a recipe, on a device; `run` trains one arm with one seed."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        self.recipe = {"data": Path(args.data_dir).resolve().name} | {key: getattr(args, key) for key in RECIPE}
        try:
            folders = [Path(args.data_dir, split) for split in (args.train_split, args.test_split)]
            train, test = (ImageFolder(folder, pil_to_tensor) for folder in folders)
        except FileNotFoundError as error:
            raise SystemExit(f"error: --data-dir must hold the folders of the splits, {error}") from None
        self.num_classes = len(train.classes)
        members = [[i for i, label in enumerate(train.targets) if label == c] for c in range(self.num_classes)]
        tested = range(len(test))
        if args.held_out:
            cut = max(1, args.held_out // self.num_classes)
            test, tested = train, [i for each in members for i in each[-cut:]]
            members = [each[:-cut] for each in members]
        count = 0
        if args.train_images:
            count = max(1, args.train_images // self.num_classes)
            members = [each[args.part * count : (args.part + 1) * count] for each in members]
        left, needed = sum(map(len, members)), max(args.batch_size, self.num_classes * count)
        if left < needed:
            raise SystemExit(
                f"error: --held-out, --train-images, --part and --batch-size must fit into the training images, got "
                f"{left} where {needed} are needed; ask for less"
            )
        self.images, self.target = self.load(train, [i for each in members for i in each])
        self.test_images, self.test_target = self.load(test, tested)
        pixels = self.images.float() / 255
        self.mean, self.std = (f(pixels, (0, 2, 3)).view(1, -1, 1, 1) for f in (torch.mean, torch.std))
        self.auxiliaries = {}
        print(f"{len(self.images)} training and {len(self.test_images)} test images of {self.num_classes} classes")

    def load(self, folder: ImageFolder, indices) -> tuple[torch.Tensor, torch.Tensor]:
        images, target = zip(*(folder[i] for i in indices), strict=True)
        if len({image.shape for image in images}) > 1:
            raise SystemExit(
                f"error: --data-dir must hold images of one size, got several in {folder.root}; resize them"
            )
        return torch.stack(images).to(self.device), torch.tensor(target).to(self.device)

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


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.format(names=", ".join(NAMES)), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", required=True, metavar="DIR", help="folder with an image folder for each split")
    parser.add_argument("--train-split", default="train", metavar="NAME")
    parser.add_argument("--test-split", default="test", metavar="NAME")
    parser.add_argument("--train-images", type=int, metavar="N", help="N in all, as many of each class (default: all)")
    parser.add_argument("--part", type=int, default=0, metavar="K", help="the K-th such N images, from 0")
    parser.add_argument(
        "--held-out", type=int, metavar="N", help="test on the last N training images, not the test split"
    )
    parser.add_argument("--arms", nargs="+", default=["none", "mixup", "cutmix", "gradient"], metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--model", choices=("resnet18", "narrow"), default="resnet18")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--auxiliary-epochs", type=int, default=20, metavar="EPOCHS")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--prob", type=float, default=1.0, help="share of mixed batches in every arm that mixes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="read the runs that are done, add a line per run")
    parser.add_argument("--look", action="store_true", help="train no arm, only measure what SAGE's plans look like")
    parser.add_argument("--against", metavar="ARM", help="compare with this arm (default: timm's best)")
    parser.add_argument("--plot", metavar="FILE", help="draw the accuracies")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    study = Study(args)
    narrow = study.create_model("narrow")
    try:
        for text in args.arms:
            Arm.parse(text).create(study.num_classes, args.prob, narrow, lambda: narrow)
    except (TypeError, ValueError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None
    if args.look:
        for text in args.arms:
            mix = Arm.parse(text).create(study.num_classes, 1.0, narrow, lambda: study.auxiliary(args.seeds[0])[0])
            print(text, study.look(mix))
        return
    runs = [run for run in read(args.json) if run["recipe"] == study.recipe]
    done = {(run["arm"], run["seed"]) for run in runs}
    try:
        for seed in args.seeds:
            for text in args.arms:
                if (text, seed) not in done:
                    runs.append(study.run(text, seed))
                    if args.json:
                        with args.json.open("a") as file:
                            file.write(json.dumps(runs[-1]) + "\n")
    except KeyboardInterrupt:
        print(f"interrupted; {'the same command goes on' if args.json else 'with --json FILE it could go on'}")
    if runs:
        print(table(runs, args.against))
    if runs and args.plot:
        plot({"": runs}, args.plot)


if __name__ == "__main__":
    main()
