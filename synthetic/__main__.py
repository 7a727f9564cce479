"""Command line of the sample set; see `python -m synthetic --help`."""

import argparse
import sys
from collections.abc import Sequence

from synthetic.contact_sheet import write_contact_sheet
from synthetic.dataset import SampleError, write_dataset

EXAMPLES = """\
examples:
  python -m synthetic --output data/sample --count 1200 --seed 1
  python -m synthetic --output data/wild --count 200 --seed 1 --wild
  python -m synthetic --contact-sheet docs/sample.jpg --seed 1
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m synthetic",
        description="Paint portraits of people who do not exist, with exact masks, in CelebA's layout.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", metavar="DIR", help="folder to write; an earlier sample set in it is replaced"
    )
    parser.add_argument("--count", type=int, default=1200, help="number of pictures (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="number of the set, from 0 (default: %(default)s)"
    )
    parser.add_argument(
        "--wild", action="store_true", help="large pictures, one face anywhere, tilted up to 30 degrees"
    )
    parser.add_argument(
        "--workers", type=int, help="processes (default: one per processor); the result is the same"
    )
    parser.add_argument(
        "--contact-sheet", metavar="FILE", help="write a 6 x 8 overview with masks, .png or .jpg"
    )
    return parser


def show_progress(done: int, total: int) -> None:
    """Keep one line on stderr up to date; on a file or pipe, write only the last state."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done} / {total} pictures", end=end, file=sys.stderr, flush=True)
    elif done == total:
        print(f"{done} / {total} pictures", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, or 2 after a one-line error on stderr."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.output is None and options.contact_sheet is None:
        parser.error("nothing to do: give --output, --contact-sheet or both")
    try:
        if options.seed < 0:
            raise SampleError(f"--seed must not be negative, but is {options.seed}")
        if options.output is not None:
            write_dataset(
                options.output, options.count, options.seed, options.wild, options.workers, show_progress
            )
        if options.contact_sheet is not None:
            write_contact_sheet(options.contact_sheet, options.seed)
    except SampleError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: stopped; the set is incomplete", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
