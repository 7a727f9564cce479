"""``python -m training.explain``: attribution maps of a classifier."""

from common.command import run
from training.explain.explain import main

if __name__ == "__main__":
    run(main)
