"""``python -m training.subsets``: nested label subsets as list files."""

from common.command import run
from training.data.label_subsets import main

if __name__ == "__main__":
    run(main)
