"""``python -m training.predict``: attributes of raw photos."""

from common.command import run
from training.predict.predict import main

if __name__ == "__main__":
    run(main)
