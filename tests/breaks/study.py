"""Breaks of the study: (what, file, text, replacement, tests)."""

DATA, ARMS, TRAINING, MAIN, REPORT = (
    f"scripts/study/{name}.py" for name in ("data", "arms", "training", "__main__", "report")
)
STUDY = "tests/scripts/test_study.py"

MUTANTS = [
    ("study: runs on other images of the same name are reused", TRAINING, 'self.recipe["digest"] = f"{train.digest}-{test.digest}"', 'pass', STUDY),
    ("study: runs with other test images are reused", TRAINING, "-{test.digest}", "", STUDY),
    ("study: backgrounds of the object's own colours", DATA, "for index in (image, donor[image])", "for index in (image, image)", STUDY),
    ("study: backgrounds show a shape", DATA, "spot * noise", "spot", STUDY),
    ("study: the mask is all of the frame", DATA, "mask[there] = 1", "mask[image] = 1", STUDY),
    ("study: one object of each size placed", DATA, "(side == length).nonzero()[:, 0].split(1000)", "(side == length).nonzero()[:1, 0].split(1000)", STUDY),
    ("study: every part is the first", DATA, "each[args.part * count : (args.part + 1) * count]", "each[:count]", STUDY),
    ("study: held-out images are trained on", DATA, "members = [each[:-cut] for each in members]", "pass", STUDY),
    ("study: splits of other classes accepted", DATA, "if train.classes != test.classes:", "if False:", STUDY),
    ("study: shuffled maps are the true ones", ARMS, 'return mask if self.kind == "oracle" else mask.roll(1, 0)', "return mask", STUDY),
    ("study: an arm's prob does nothing", ARMS, 'self.settings.get("prob", prob)', "prob", STUDY),
    ("study: settings of the maps do nothing", ARMS, "for key in OF_SALIENCY if key in self.settings", "for key in ()", STUDY),
    ("study: calibration without the answers", TRAINING, "confidence - right", "confidence", STUDY),
    ("study: time of the auxiliary model not counted", TRAINING, "round(seconds + extra, 2)", "round(seconds, 2)", STUDY),
    ("study: an auxiliary from the cache costs nothing", TRAINING, 'seconds = kept["seconds"]', "seconds = 0.0", STUDY),
    ("study: runs of another recipe count as done", MAIN, 'run["recipe"] == study.recipe and', "", STUDY),
    ("study: arms see images in another order", TRAINING, "torch.randperm(len(self.images), generator=generator, device=self.device)", "torch.randperm(len(self.images))", STUDY),
    ("study: weights at the start depend on the arm", TRAINING, "random_seed(seed)\n        model = self.create_model(self.args.model)", "model = self.create_model(self.args.model)", STUDY),
    ("study: --lr does nothing", TRAINING, "model.parameters(), self.args.lr, momentum", "model.parameters(), 0.1, momentum", STUDY),
    ("study: seeds not paired", REPORT, 'other[seed]["accuracy"] for seed in arm', 'other[min(other)]["accuracy"] for seed in arm', STUDY),
    ("study: any difference counts", REPORT, "2 * error else text", "0 * error else text", STUDY),
    ("study: the sentence calls any difference one", REPORT, "if abs(value) <= 2 * error:", "if False:", STUDY),
    ("study: the sentence always says better", REPORT, "'better' if value > 0 else 'worse'", "'better'", STUDY),
    ("study: cut-off lines are written on", REPORT, 'text != b"" and not text.endswith(b"\\n")', "False", STUDY),
]  # fmt: skip
