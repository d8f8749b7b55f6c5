"""The `sigtok-train` command, also as `python -m sigtok.train`: it says in a line what must be installed for it."""

import sys


def main() -> None:
    """Run one command; exit code 2 without the libraries of training."""
    try:
        from .cli import main as command
    except ModuleNotFoundError as error:
        if str(error.name).startswith("sigtok"):
            raise
        sys.stderr.write(
            f"sigtok-train: error: training needs {error.name}, got none installed; pip install 'sigtok[train]'\n"
        )
        raise SystemExit(2) from None
    command()


if __name__ == "__main__":
    main()
