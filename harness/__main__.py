"""`python -m harness`: the console script."""

from harness.cli import entry

if __name__ == "__main__":
    entry()
