"""`python -m sage_timm SCRIPT ARGS --sage`."""

from .launch import main

if __name__ == "__main__":
    main()
