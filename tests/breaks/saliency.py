"""Breaks of saliency sources and their models: (what, file, text, replacement, tests)."""

MUTANTS = [
    ('saliency of the mixed-up sign', 'sage_timm/saliency/model.py', 'gradient.abs().mean(1, keepdim=True)', 'gradient.mean(1, keepdim=True)', 'tests/saliency/test_saliency.py'),
    ('true label ignored', 'sage_timm/saliency/model.py', 'if target is None or (target.ndim == 2 and target.shape[1] != logits.shape[1]):', 'if True:', 'tests/saliency/test_saliency.py'),
    ('power does nothing', 'sage_timm/saliency/base.py', 'if self.power != 1:', 'if False:', 'tests/saliency/test_saliency.py'),
    ('blur does nothing', 'sage_timm/saliency/base.py', 'if self.blur:', 'if False:', 'tests/saliency/test_saliency.py'),
    ('grid does nothing', 'sage_timm/saliency/base.py', '(self.grid or side)', 'side', 'tests/saliency/test_saliency.py'),
    ('size does nothing', 'sage_timm/saliency/model.py', 'images = resize(images, self.size or tuple(images.shape[-2:]))', 'images = resize(images, tuple(images.shape[-2:]))', 'tests/saliency/test_saliency.py'),
    ('statistics not converted', 'sage_timm/saliency/model.py', 'return (images * std + (mean - own_mean)) / own_std', 'return images', 'tests/saliency/test_saliency.py'),
    ('self saliency leaves the model in eval mode', 'sage_timm/saliency/model.py', 'module.training = training', 'pass', 'tests/saliency/test_saliency.py'),
    ("auxiliary model is the user's own object", 'sage_timm/saliency/auxiliary.py', 'copy.deepcopy(unwrap(model))', 'unwrap(model)', 'tests/saliency/test_saliency.py'),
    ('parameters not frozen', 'sage_timm/saliency/auxiliary.py', '.eval().requires_grad_(False)', '.eval()', 'tests/saliency/test_saliency.py'),
    ('averaged weights ignored', 'sage_timm/saliency/auxiliary.py', '("state_dict_ema", "model_ema", "state_dict", "model")', '("state_dict", "model")', 'tests/saliency/test_auxiliary.py'),
    ('pickled code is run', 'sage_timm/saliency/auxiliary.py', 'weights_only=True', 'weights_only=False', 'tests/saliency/test_auxiliary.py'),
    ('hub asked without a probe', 'sage_timm/saliency/auxiliary.py', 'get_session().head(constants.ENDPOINT, timeout=5)', 'pass', 'tests/saliency/test_auxiliary.py'),
    ('size of fixed-size models ignored', 'sage_timm/saliency/auxiliary.py', 'size = built_for or config', 'size = config', 'tests/saliency/test_saliency.py'),
    ('random state consumed', 'sage_timm/saliency/auxiliary.py', 'with torch.random.fork_rng(devices=[]):', 'if True:', 'tests/saliency/test_auxiliary.py'),
    ('mask under autocast', 'sage_timm/saliency/base.py', 'torch.autocast(images.device.type, enabled=False)', 'contextlib.nullcontext()', 'tests/saliency/test_saliency.py'),
    ("gradient saliency changes its model's weights", 'sage_timm/saliency/model.py', 'return gradient.abs().mean(1, keepdim=True)', '[p.data.add_(1e-3) for p in self.auxiliary.model.parameters()]\n        return gradient.abs().mean(1, keepdim=True)', 'tests/saliency/test_saliency.py'),
    ('downloaded weights are not loaded', 'sage_timm/saliency/auxiliary.py', 'create_model(name, pretrained=True, in_chans=in_chans,', 'create_model(name, pretrained=False, in_chans=in_chans,', 'tests/saliency/test_auxiliary.py'),
]  # fmt: skip
