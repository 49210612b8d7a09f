"""Prints what it sees of itself, then ends with an exit code or an error."""

import os
import sys

import helper_module


def fail():
    raise ValueError(f"mine, {helper_module.__name__}")


print(sys.argv, sys.path[0], __name__, os.path.basename(__file__), sys.modules["__main__"].fail is fail)
if sys.argv[1] == "exit":
    sys.exit(7)
fail()
