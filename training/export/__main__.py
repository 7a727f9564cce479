"""``python -m training.export``: a classifier for other runtimes."""

from common.command import run
from training.export.export import main

if __name__ == "__main__":
    run(main)
