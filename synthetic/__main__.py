"""Command line of the sample set; see `python -m synthetic --help`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.command import run
from common.config import load
from common.errors import UserError
from synthetic.contact_sheet import write_contact_sheet
from synthetic.dataset import write_dataset

EXAMPLES = """\
examples:
  python -m synthetic --output data/sample --count 1200 --seed 1
  python -m synthetic --output data/wild --count 200 --seed 1 --wild
  python -m synthetic --contact-sheet docs/sample.jpg --seed 1
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and paint.

    Raises:
        UserError: a number is out of range, or a file cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="python -m synthetic",
        description="Paint portraits of people who do not exist, with exact masks, in CelebA's layout.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, only = (
        parser.add_argument,
        "leave the folder empty unless data.input of params.yaml is the same path",
    )
    add("--output", metavar="DIR", help="folder to write; an earlier sample set in it is replaced")
    add("--count", type=int, default=1200, help="number of images (default: %(default)s)")
    add("--seed", type=int, default=0, help="number of the set, from 0 (default: %(default)s)")
    add("--wild", action="store_true", help="large images, one face anywhere, tilted up to 30 degrees")
    add("--workers", type=int, help="processes (default: one per processor); the result is the same")
    add("--if-input", action="store_true", help=only)
    add("--contact-sheet", metavar="FILE", help="write a 6 x 8 overview with masks, .png or .jpg")
    options = parser.parse_args(arguments)
    if options.output is None and options.contact_sheet is None:
        parser.error("nothing to do: give --output, --contact-sheet or both")
    if options.seed < 0:
        raise UserError(f"--seed must not be negative, but is {options.seed}")
    if options.output is not None and options.if_input and load().data.input != options.output:
        Path(options.output).mkdir(parents=True, exist_ok=True)
    elif options.output is not None:
        write_dataset(options.output, options.count, options.seed, options.wild, options.workers)
    if options.contact_sheet is not None:
        write_contact_sheet(options.contact_sheet, options.seed)


if __name__ == "__main__":
    run(main)
