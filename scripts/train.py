"""Train an image classifier on an image folder with timm: a compact recipe with the flag names of timm's train.py.

python scripts/train.py --data-dir DATA --model resnet18 --num-classes 10 --mixup 0.8 --cutmix 1.0
python -m sage_timm scripts/train.py --data-dir DATA ... --sage
"""

import argparse
import logging
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
import yaml
from timm import utils
from timm.data import FastCollateMixup, Mixup, create_dataset, create_loader, resolve_data_config
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models import create_model, resume_checkpoint
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

_logger = logging.getLogger("train")

config_parser = argparse.ArgumentParser(add_help=False)
config_parser.add_argument("-c", "--config", metavar="FILE", help="YAML file with defaults for the other arguments")

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], parents=[config_parser])
group = parser.add_argument_group("data")
group.add_argument("--data-dir", metavar="DIR", help="image folder with a sub-folder per split")
group.add_argument("--train-split", default="train")
group.add_argument("--val-split", default="validation")
group.add_argument(
    "--input-size", type=int, nargs=3, metavar="N", help="channels, height, width (default: the model's)"
)
group.add_argument("--in-chans", type=int, help="image channels (default: 3)")
group.add_argument("--mean", type=float, nargs="+")
group.add_argument("--std", type=float, nargs="+")
group.add_argument("-b", "--batch-size", type=int, default=128)
group.add_argument("-j", "--workers", type=int, default=4)
group.add_argument("--no-prefetcher", action="store_true", help="normalise in the workers, mix in the training loop")
group = parser.add_argument_group("model and optimiser")
group.add_argument("--model", default="resnet50")
group.add_argument("--pretrained", action="store_true")
group.add_argument("--resume", default="", metavar="PATH", help="continue from a checkpoint of this script")
group.add_argument("--num-classes", type=int)
group.add_argument("--drop-path", type=float)
group.add_argument("--opt", default="sgd")
group.add_argument("--momentum", type=float, default=0.9)
group.add_argument("--weight-decay", type=float, default=2e-5)
group.add_argument("--lr", type=float, default=0.1)
group.add_argument("--warmup-lr", type=float, default=1e-5)
group.add_argument("--warmup-epochs", type=int, default=5)
group.add_argument("--epochs", type=int, default=300)
group.add_argument("--sched", default="cosine")
group = parser.add_argument_group("augmentation")
group.add_argument("--no-aug", action="store_true")
group.add_argument("--scale", type=float, nargs=2, default=[0.08, 1.0], help="random resized crop, share of area")
group.add_argument("--color-jitter", type=float, default=0.4)
group.add_argument("--aa", help="AutoAugment policy, such as rand-m9-mstd0.5-inc1")
group.add_argument("--reprob", type=float, default=0.0, help="random erasing probability")
group.add_argument("--smoothing", type=float, default=0.1)
group.add_argument("--bce-loss", action="store_true")
group.add_argument("--mixup", type=float, default=0.0)
group.add_argument("--cutmix", type=float, default=0.0)
group.add_argument("--cutmix-minmax", type=float, nargs="+")
group.add_argument("--mixup-prob", type=float, default=1.0)
group.add_argument("--mixup-switch-prob", type=float, default=0.5)
group.add_argument("--mixup-mode", default="batch")
group.add_argument("--mixup-off-epoch", type=int, default=0, metavar="N")
group = parser.add_argument_group("run")
group.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
group.add_argument("--amp", action="store_true")
group.add_argument("--amp-dtype", default="float16", choices=("float16", "bfloat16"))
group.add_argument("--channels-last", action="store_true")
group.add_argument("--seed", type=int, default=42)
group.add_argument("--log-interval", type=int, default=50)
group.add_argument("--output", default="output/train", metavar="DIR")
group.add_argument("--experiment", default="", metavar="NAME", help="folder under --output (default: date and model)")


def parse_args():
    config, rest = config_parser.parse_known_args()
    if config.config:
        parser.set_defaults(**yaml.safe_load(Path(config.config).read_text()))
    return parser.parse_args(rest)


def create_loaders(args, data_config, device):
    """Create the training and the validation loader, and the mixing function of the training loop (or None)."""
    mixup_fn, collate_fn = None, None
    if args.mixup_active:
        mixup_args = dict(
            mixup_alpha=args.mixup,
            cutmix_alpha=args.cutmix,
            cutmix_minmax=args.cutmix_minmax,
            prob=args.mixup_prob,
            switch_prob=args.mixup_switch_prob,
            mode=args.mixup_mode,
            label_smoothing=args.smoothing,
            num_classes=args.num_classes,
        )
        if args.prefetcher:
            collate_fn = FastCollateMixup(**mixup_args)
        else:
            mixup_fn = Mixup(**mixup_args)
    common = dict(
        input_size=data_config["input_size"],
        batch_size=args.batch_size,
        use_prefetcher=args.prefetcher,
        mean=data_config["mean"],
        std=data_config["std"],
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        distributed=args.distributed,
        device=device,
    )
    input_img_mode = "RGB" if data_config["input_size"][0] == 3 else "L"
    datasets = [
        create_dataset("", args.data_dir, split, is_training=training, input_img_mode=input_img_mode)
        for split, training in ((args.train_split, True), (args.val_split, False))
    ]
    loader_train = create_loader(
        datasets[0],
        is_training=True,
        no_aug=args.no_aug,
        scale=args.scale,
        color_jitter=args.color_jitter,
        auto_augment=args.aa,
        re_prob=args.reprob,
        interpolation=data_config["interpolation"] if args.no_aug else "random",
        collate_fn=collate_fn,
        **common,
    )
    eval_transform = dict(interpolation=data_config["interpolation"], crop_pct=data_config["crop_pct"])
    loader_eval = create_loader(datasets[1], **eval_transform, **common)
    return loader_train, loader_eval, mixup_fn


def create_loss(args):
    if args.bce_loss:
        return BinaryCrossEntropy(args.smoothing)
    if args.mixup_active:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(args.smoothing) if args.smoothing else torch.nn.CrossEntropyLoss()


def main():
    utils.setup_default_logging()
    with logging_redirect_tqdm():
        train(parse_args())


def train(args):
    args_text = yaml.safe_dump(vars(args))
    args.prefetcher = not args.no_prefetcher
    args.mixup_active = args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None
    device = utils.init_distributed_device(args)
    utils.random_seed(args.seed, args.rank)

    model = create_model(
        args.model,
        pretrained=args.pretrained,
        num_classes=args.num_classes,
        in_chans=args.in_chans or (args.input_size or [3])[0],
        drop_path_rate=args.drop_path,
    )
    args.num_classes = model.num_classes
    data_config = resolve_data_config(vars(args), model=model)
    model.to(device, memory_format=torch.channels_last if args.channels_last else torch.preserve_format)

    loader_train, loader_eval, mixup_fn = create_loaders(args, data_config, device)
    optimizer = create_optimizer_v2(model, **optimizer_kwargs(args))
    autocast, scaler = suppress, None
    if args.amp:
        autocast = partial(torch.autocast, device.type, dtype=getattr(torch, args.amp_dtype))
        scaler = utils.NativeScaler() if device.type == "cuda" and args.amp_dtype == "float16" else None
    start_epoch = resume_checkpoint(model, args.resume, optimizer, scaler) if args.resume else 0
    scheduler, epochs = create_scheduler_v2(optimizer, **scheduler_kwargs(args), updates_per_epoch=len(loader_train))
    scheduler.step(start_epoch)

    trained = model
    if args.distributed:
        trained = torch.nn.parallel.DistributedDataParallel(
            model, device_ids=[device] if device.type == "cuda" else None
        )
    saver = None
    if utils.is_primary(args):
        folder = utils.get_outdir(args.output, args.experiment or f"{time.strftime('%Y%m%d-%H%M%S')}-{args.model}")
        saver = utils.CheckpointSaver(model, optimizer, args, None, scaler, checkpoint_dir=folder, max_history=2)
        Path(folder, "args.yaml").write_text(args_text)

    bar = tqdm(range(start_epoch, epochs), "epochs", disable=None if utils.is_primary(args) else True)
    for epoch in bar:
        if args.mixup_active and args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
            (loader_train if args.prefetcher else mixup_fn).mixup_enabled = False
        if args.distributed:
            loader_train.sampler.set_epoch(epoch)
        loss = train_one_epoch(epoch, trained, loader_train, optimizer, args, device, autocast, scaler, mixup_fn)
        top1 = validate(model, loader_eval, args, device, autocast)
        scheduler.step(epoch + 1)
        if utils.is_primary(args):
            _logger.info(f"Epoch {epoch}: loss {loss:.4f}, validation top-1 {top1:.2f} %")
            saver.save_checkpoint(epoch, metric=top1)
            summary = Path(folder, "summary.csv")
            utils.update_summary(epoch, {"loss": loss}, {"top1": top1}, summary, write_header=not summary.exists())
    if args.distributed:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def train_one_epoch(epoch, model, loader, optimizer, args, device, autocast, scaler, mixup_fn):
    model.train()
    loss_fn = create_loss(args)
    total = torch.zeros((), device=device)
    for step, (images, target) in enumerate(loader):
        if not args.prefetcher:
            images, target = images.to(device), target.to(device)
            if mixup_fn is not None:
                images, target = mixup_fn(images, target)
        if args.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast():
            loss = loss_fn(model(images), target)
        optimizer.zero_grad()
        if scaler is not None:
            scaler(loss, optimizer)
        else:
            loss.backward()
            optimizer.step()
        total += loss.detach()
        if utils.is_primary(args) and (step % args.log_interval == 0 or step + 1 == len(loader)):
            _logger.info(
                f"Train: {epoch} [{step}/{len(loader)}]  Loss: {loss.item():.3f} ({total.item() / (step + 1):.3f})"
            )
    return total.item() / len(loader)


@torch.inference_mode()
def validate(model, loader, args, device, autocast):
    model.eval()
    top1 = utils.AverageMeter()
    for images, target in loader:
        images, target = images.to(device), target.to(device)
        with autocast():
            output = model(images)
        accuracy = utils.accuracy(output, target)[0]
        accuracy = utils.reduce_tensor(accuracy, args.world_size) if args.distributed else accuracy
        top1.update(accuracy.item(), len(target))
    return top1.avg


if __name__ == "__main__":
    main()
