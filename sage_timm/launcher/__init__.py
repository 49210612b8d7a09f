"""The command `python -m sage_timm SCRIPT ...`; nothing else imports it."""
