"""Breaks of saliency sources and their models: (what, file, text, replacement, tests)."""

MUTANTS = [
    ("statistics of images in [0, 255] accepted", "sage_timm/saliency/base.py", "if not 0 <= check_number(name, value, -math.inf, math.inf) <= 1:", "if not check_number(name, value, -math.inf, math.inf) <= 1e3:", "tests/saliency/test_saliency.py"),
    ('blur does nothing', 'sage_timm/saliency/base.py', 'if self.blur:', 'if False:', 'tests/saliency/test_saliency.py'),
    ('grid does nothing', 'sage_timm/saliency/base.py', '(self.grid or side)', 'side', 'tests/saliency/test_saliency.py'),
    ('size does nothing', 'sage_timm/saliency/model.py', 'images = _resized(images, self.size)', 'images = _resized(images, None)', 'tests/saliency/test_saliency.py'),
    ('self saliency leaves the model in eval mode', 'sage_timm/saliency/model.py', 'module.training = training', 'pass', 'tests/saliency/test_saliency.py'),
    ("auxiliary model is the user's own object", 'sage_timm/saliency/auxiliary.py', 'copy.deepcopy(unwrap(model))', 'unwrap(model)', 'tests/saliency/test_saliency.py'),
    ('parameters not frozen', 'sage_timm/saliency/auxiliary.py', '.eval().requires_grad_(False)', '.eval()', 'tests/saliency/test_saliency.py'),
    ('averaged weights ignored', 'sage_timm/saliency/auxiliary.py', '("state_dict_ema", "model_ema", "state_dict", "model")', '("state_dict", "model")', 'tests/saliency/test_auxiliary.py'),
    ('pickled code is run', 'sage_timm/saliency/auxiliary.py', 'weights_only=True', 'weights_only=False', 'tests/saliency/test_auxiliary.py'),
    ('hub asked without a probe', 'sage_timm/saliency/auxiliary.py', 'get_session().head(constants.ENDPOINT, timeout=5)', 'pass', 'tests/saliency/test_auxiliary.py'),
    ('size of fixed-size models ignored', 'sage_timm/saliency/auxiliary.py', 'size = built_for or config', 'size = config', 'tests/saliency/test_saliency.py'),
    ('random state consumed', 'sage_timm/saliency/auxiliary.py', 'with torch.random.fork_rng(devices=[]):', 'if True:', 'tests/saliency/test_auxiliary.py'),
    ('mask under autocast', 'sage_timm/saliency/base.py', 'torch.autocast(images.device.type, enabled=False)', 'contextlib.nullcontext()', 'tests/saliency/test_saliency.py'),
    ("a feature without its usual value taken off", "sage_timm/saliency/model.py", "(gradient * (feature - usual))", "(gradient * feature)", "tests/saliency/test_saliency.py"),
    ("a stage that the logits do not depend on", "sage_timm/saliency/model.py", " and logits.requires_grad:", ":", "tests/saliency/test_saliency.py"),
    ("a stage whose channels come last", "sage_timm/saliency/model.py", 'feature.shape[1] == stage["num_chs"]', "True", "tests/saliency/test_saliency.py"),
    ("a feature that the next layer overwrites", "sage_timm/saliency/model.py", "return leaf.clone()", "return leaf", "tests/saliency/test_saliency.py"),
    ("a hook left on the auxiliary", "sage_timm/saliency/model.py", "        hook.remove()", "        pass", "tests/saliency/test_saliency.py"),
    ("floor does nothing", "sage_timm/saliency/base.py", "maps - self.floor * maps.mean", "maps - 0 * maps.mean", "tests/saliency/test_saliency.py"),
    ("a flat map under its floor vanishes", "sage_timm/saliency/base.py", "torch.where(empty, maps, above)", "above", "tests/saliency/test_saliency.py"),
]  # fmt: skip
