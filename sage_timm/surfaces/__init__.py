"""What users call: one file per library whose place it takes, timm's Mixup and torchvision's v2.MixUp."""
