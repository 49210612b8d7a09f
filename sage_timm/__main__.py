"""`python -m sage_timm SCRIPT ARGS --sage`."""

from .launcher.cli import main

if __name__ == "__main__":
    main()
