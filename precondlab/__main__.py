"""``python -m precondlab``."""

from precondlab.cli import app

if __name__ == "__main__":
    app()
