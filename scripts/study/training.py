"""The training of the study: a data set and a recipe; one arm, one seed, one record."""

import argparse
import hashlib
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy
from timm.models.resnet import BasicBlock, ResNet
from timm.utils import random_seed
from tqdm import tqdm

from sage_timm.tensors import resize
from scripts.bench.measure import machine
from scripts.saliency.teacher import create_teacher, teach

from .arms import Arm, Truth, look
from .augment import Augmentation
from .data import load_splits

LAST = 3  # epochs whose mean test result counts
RECIPE = ("model", "epochs", "auxiliary_epochs", "batch_size", "lr", "prob", "train_images", "part", "held_out")
RECIPE += ("train_split", "test_split", "object_share", "precision", "scale", "ratio", "randaugment", "random_erasing")


class Study:
    """A data set and a recipe, on a device; `run` trains one arm with one seed."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        self.recipe = {"data": Path(args.data_dir).resolve().name} | {key: getattr(args, key) for key in RECIPE}
        self.recipe |= {"frame": args.frame if args.object_share else None, "device": self.device.type}
        self.recipe |= {"size": args.size} if args.size else {}
        self.recipe |= {"boxes": args.boxes.name} if args.boxes else {}
        train, test, self.num_classes = load_splits(args, self.device)
        self.images, self.target = train.images, train.target
        self.mask = None if args.randaugment else train.mask  # RandAugment moves objects, and no mask along with them
        self.known, self.taught = self.mask, None
        self.augmentation = Augmentation(args.scale, args.ratio, args.randaugment, args.random_erasing, self.device)
        self.test_images, self.test_target = test.images, test.target
        self.recipe["digest"] = f"{train.digest}-{test.digest}"
        pixels = self.images.float() / 255
        self.mean, self.std = (f(pixels, (0, 2, 3)).view(1, -1, 1, 1) for f in (torch.mean, torch.std))
        self.statistics = self.mean.flatten().tolist(), self.std.flatten().tolist()
        self.truth, self.auxiliaries, self.estimated = Truth(), {}, False
        self.small = {"resnet18": "narrow", "wide": "pooled"}.get(args.model, args.model)
        print(f"{len(self.images)} training and {len(self.test_images)} test images of {self.num_classes} classes")

    def clock(self) -> float:
        """Seconds: wall clock on a GPU; on a CPU those of this process, whatever else the machine does."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter() if self.cuda else time.process_time()

    def create_model(self, name: str) -> ResNet:
        """Create 'resnet18' with a 3x3 stem, or a ResNet-10 with a stem of stride 2: 'narrow', 'pooled' or 'wide'.

        The stem of 'resnet18' has stride 2 for images of 64 pixels and more, 1 for smaller ones.
        'narrow' has 16 to 128 channels; 'pooled' also halves the stem's output, as ResNets do, which suits images of
        48 pixels and more; 'wide' is 'pooled' with 32 to 256 channels.
        """
        of_resnet18 = 2, 64, 2 if self.images.shape[-1] >= 64 else 1
        depth, width, stride = {"resnet18": of_resnet18, "wide": (1, 32, 2)}.get(name, (1, 16, 2))
        channels = tuple(width * 2**stage for stage in range(4))
        model = ResNet(
            BasicBlock, [depth] * 4, self.num_classes, stem_type="deep", stem_width=width // 2, channels=channels
        )
        model.conv1 = torch.nn.Conv2d(self.images.shape[1], width, 3, stride, 1, bias=False)
        model.maxpool = torch.nn.MaxPool2d(3, 2, 1) if name in ("pooled", "wide") else torch.nn.Identity()
        return model.to(self.device, memory_format=torch.channels_last)

    def forward(self, model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits of normalised images, at the study's precision."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.precision == "bf16"):
            return model(images.contiguous(memory_format=torch.channels_last)).float()

    def normalized(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float() / 255 - self.mean) / self.std

    def batch(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return training images, augmented and normalised, and keep what masks are known, augmented alike."""
        mask = None if self.known is None else self.known[index]
        images, self.truth.mask = self.augmentation(self.images[index], mask, self.normalized, generator)
        return images

    def train(self, model, epochs: int, seed: int, mix=None, name: str = "") -> tuple[float, list]:
        """Train a model; return the seconds it took and its checks [epoch, seconds, what `test` measures].

        The order of the images and their augmentation depend on the seed alone, not on what is mixed. A progress bar
        over the epochs carries the `name`, on a terminal.
        """
        batch, steps = self.args.batch_size, len(self.images) // self.args.batch_size
        optimizer = torch.optim.SGD(model.parameters(), self.args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.args.lr, epochs=epochs, steps_per_epoch=steps)
        generator = torch.Generator(self.device).manual_seed(seed)
        criterion, seconds, checks = SoftTargetCrossEntropy(), 0.0, []
        for epoch in tqdm(range(1, epochs + 1), name, unit="epoch", leave=False, disable=None):
            start, wall = self.clock(), time.perf_counter()
            model.train()
            order = torch.randperm(len(self.images), generator=generator, device=self.device)
            for index in order[: steps * batch].view(steps, batch):
                images, target = self.batch(index, generator), self.target[index]
                images, target = mix(images, target) if mix else (images, F.one_hot(target, self.num_classes).float())
                loss = criterion(self.forward(model, images), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            seconds += self.clock() - start
            if not self.estimated and epoch == min(2, epochs):  # the first epoch warms up
                self.estimated = True
                minutes = (time.perf_counter() - wall) * epochs / 60
                print(f"{name}: about {minutes:.1f} minutes for {epochs} epochs", flush=True)
            if epoch > epochs - LAST:
                checks.append([epoch, round(seconds, 2), self.test(model)])
        return seconds, checks

    @torch.inference_mode()
    def test(self, model) -> dict[str, float]:
        """Measure accuracy in %, negative log likelihood and expected calibration error in % (15 bins)."""
        model.eval()
        logits = torch.cat([self.forward(model, self.normalized(images)) for images in self.test_images.split(250)])
        confidence, answer = logits.softmax(1).max(1)
        right = (answer == self.test_target).float()
        bins = (confidence * 15).long().clamp_max(14)
        gap = torch.zeros(15, device=self.device).index_add(0, bins, confidence - right).abs().sum()
        likelihood = F.cross_entropy(logits, self.test_target)
        values = {"accuracy": 100 * right.mean(), "nll": likelihood, "ece": 100 * gap / len(right)}
        return {name: round(value.item(), 4) for name, value in values.items()}

    def auxiliary(self, seed: int) -> tuple[torch.nn.Module, float]:
        """Train the small model that saliency comes from, without mixing, once per seed, on the study's images.

        Returns:
            The model and the seconds that its training took; with --cache DIR from there, where they stand.
        """
        if seed in self.auxiliaries:
            return self.auxiliaries[seed]
        random_seed(seed + 1000)
        model = self.create_model(self.small)
        recipe = {name: value for name, value in self.recipe.items() if name not in ("epochs", "prob")}
        name = hashlib.sha256(json.dumps([recipe, seed]).encode()).hexdigest()[:16]
        file = self.args.cache and self.args.cache / f"auxiliary-{name}.pt"
        if file and file.exists():
            kept = torch.load(file, map_location=self.device, weights_only=True)
            model.load_state_dict(kept["model"])
            seconds = kept["seconds"]
        else:
            epochs, title = self.args.auxiliary_epochs, f"auxiliary model, seed {seed}"
            seconds, checks = self.train(model, epochs, seed + 1000, name=title)
            print(f"{title}: {checks[-1][2]['accuracy']:.2f} %, {seconds:.0f} s", flush=True)
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.save({"model": model.state_dict(), "seconds": seconds}, file.with_suffix(f".{seed}.tmp"))
                file.with_suffix(f".{seed}.tmp").replace(file)
        self.auxiliaries[seed] = model, seconds
        return self.auxiliaries[seed]

    def show(self, arm: Arm) -> float:
        """Let an arm see the masks that it is to know; return the seconds that they took.

        Of 'teacher' they are maps of the whole images, as the package's network learnt from them: `feature` of
        tf_efficientnet_lite0 at 224 px, averaged with those of the mirror images. They are made once.
        """
        if arm.source != "teacher" or self.args.randaugment:
            self.known = self.mask
            return 0.0
        name = hashlib.sha256(self.images.cpu().numpy().tobytes()).hexdigest()[:16]
        file = self.args.cache and self.args.cache / f"teacher-{name}.pt"
        if self.taught is None and file and file.exists():
            self.taught = torch.load(file, weights_only=True)
        if self.taught is None:
            start, teacher = self.clock(), create_teacher(None, None)
            parts = tqdm(self.images.split(32), "maps of the teacher", leave=False, disable=None)
            maps = torch.cat([teach(teacher, resize(part.float() / 255, teacher.size)) for part in parts])
            self.taught = {"maps": maps.cpu(), "seconds": self.clock() - start}
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.save(self.taught, file)
        self.known = resize(self.taught["maps"][:, None], self.images.shape[-2:]).to(self.device)
        return self.taught["seconds"]

    def run(self, text: str, seed: int) -> dict:
        """Train one arm with one seed and return its record."""
        arm = Arm.parse(text)
        epochs = arm.settings.get("epochs", self.args.epochs)
        extra = self.show(arm)
        frozen, extra = self.auxiliary(seed) if arm.trains_auxiliary else (None, extra)
        random_seed(seed)
        model = self.create_model(self.args.model)
        mix = arm.create(self.num_classes, self.args.prob, lambda: frozen, self.truth, self.statistics)
        seconds, checks = self.train(model, epochs, seed, mix, f"{text}, seed {seed}")
        record = {"arm": text, "seed": seed, "recipe": self.recipe, "machine": machine(self.device)}
        for name in ("accuracy", "nll", "ece"):
            record[name] = round(statistics.mean(tested[name] for *_, tested in checks), 4)
        print(f"{text}, seed {seed}: {record['accuracy']:.2f} %, {seconds + extra:.0f} s", flush=True)
        record |= {"seconds": round(seconds + extra, 2), "auxiliary_seconds": round(extra, 2)}
        return record | self.look(mix)

    def look(self, mix) -> dict:
        """Measure the maps and plans of up to 256 training images, always the same (see `look`)."""
        index = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0))[:256].to(self.device)
        known, mask = (None if masks is None else masks[index].float() for masks in (self.known, self.mask))
        self.truth.mask, target = known, F.one_hot(self.target[index], self.num_classes).float()
        return look(mix, self.normalized(self.images[index]), target, mask)
