"""``python -m pipeline.inventory``: the state of an input in a small file, on which the DVC graph depends.

If the graph depended on the input itself, DVC would read every photo once more than ingest does, and end at
what ingest quarantines: broken links, pipes, names that are not UTF-8. The inventory changes with the name,
the size and the time (at an object store: the entity tag) of any file that ingest lists, and with any byte of
a label file. Photos are not read. A second file says which networks of the user's own the parser reads.
With ``--input`` it points params.yaml, and so the graph, at another input instead.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import yaml

from common import command
from common.config import PARAMS, Config
from common.errors import UserError
from common.files import write_text
from common.input_files import File, Tree, list_files
from common.layout import DEFAULT_SHARDS, Layout, mark_output
from common.parsing.class_map import IMAGENET, SUFFIXES
from common.retry import retried
from common.storage import (
    Address,
    address,
    check_utf8,
    is_file,
    is_folder,
    is_local,
    list_folder,
    read_bytes,
    store_errors,
)
from common.weights import file_sha256
from pipeline.command import FILES, name_of_input

NAME: Final = "inventory.json"
NETWORKS: Final = "networks.json"
OUTPUTS: Final = ("sample", "manifests", "aligned", "shards", "runs")
"""Folders that the DVC graph writes."""


@dataclass(frozen=True)
class Inventory:
    """The state of an input.

    Attributes:
        files: how many it has.
        sha256: of their names and stamps, in hexadecimal digits.
        labels: the SHA-256 of each label file by its path or address.
    """

    files: int
    sha256: str
    labels: dict[str, str]


def take_inventory(path: Address, labels: Address | None = None) -> Inventory:
    """The inventory of an input and of a table of labels that is joined to it.

    Raises:
        UserError: there is no such input.
        OSError: it cannot be listed, or a label file cannot be read.
    """
    from pipeline.ingest.adapters import label_files, open_tree  # Arrow, which --help need not wait for

    with store_errors(path):
        tree = open_tree(path)
        tables_in = label_files(tree)
        files = list(_files(tree, tables_in))
        refused = {file.path for file in files if file.refused}
        tables = {file: tree.root / file for file in tables_in if file not in refused}
        state = sha256()
        local = is_local(tree.root)
        stamps = tree.stamps(file.path for file in files) if local else [file.stamp for file in files]
        for file, stamp in zip(files, stamps, strict=True):
            line = (file.path, file.refused, stamp, _permissions(tree.root, file))
            state.update(json.dumps(line).encode())
    if labels is not None:
        tables[str(labels)] = labels
    digests = {name: sha256(read_bytes(table)).hexdigest() for name, table in sorted(tables.items())}
    return Inventory(len(files), state.hexdigest(), digests)


def _files(tree: Tree, tables: list[str]) -> Iterator[File]:
    if tree.is_file and tree.path.name not in tables:
        # The folder of a tar is none of its business.
        yield File(tree.path.name, stamp=list_folder(tree.root)[tree.path.name])
        return
    for file in tree.files:
        yield file
        if file.refused and file.refused[0] == "link-folder":  # CelebA's images may lie behind such a link
            yield from list_files(tree.root, file.path)


def _permissions(root: Address, file: File) -> int | None:
    """The mode of a local file: one that may be read at last has neither another size nor another time."""
    with suppress(OSError):
        if isinstance(root, Path) and not file.refused:
            return os.stat(f"{root}/{file.path}").st_mode  # noqa: PTH116 - a Path takes longer than the call
    return None


def networks(config: Config) -> dict[str, str | None]:
    """The SHA-256 of the files that parsing is configured to read, and of their descriptions, by path.

    None for a file that is missing, about which parsing complains.
    """
    configured = (config.weights.parser, config.parse.features_from)
    named = {Path(name) for name in configured if name not in (None, IMAGENET)}
    described = {path.with_suffix(suffix) for path in named for suffix in SUFFIXES}
    present = {path for path in named | described if path.is_file()}
    return {str(path): file_sha256(path) if path in present else None for path in sorted(named | present)}


def inventory(config: Config, layout: Layout) -> Address:
    """Write the inventory of the configured input into the manifests, and return its path.

    `networks` are written beside it.

    Raises:
        UserError: a folder of outputs is a link out of the checkout, or as for `take_inventory`.
        OSError: as for `take_inventory`.
    """
    for name in OUTPUTS:
        if not (target := Path(name).resolve()).is_relative_to(Path.cwd().resolve()):
            raise UserError(
                f"{name} is a link to {target}, and DVC accepts no output outside of this folder; delete "
                "the link, and move the whole checkout to that disk, or mount the disk here (mount --bind)"
            )
    minutes = config.stream.retry_minutes
    path = address(config.data.input)
    labels = None if config.ingest.labels is None else address(config.ingest.labels)
    # First, so that an output inside the input is not listed.
    retried(lambda: mark_output(layout.manifests), minutes, "inventory")
    state = retried(lambda: take_inventory(path, labels), minutes, "inventory")
    write_text(layout.manifests / NAME, json.dumps(asdict(state), ensure_ascii=False, indent=1) + "\n")
    write_text(layout.manifests / NETWORKS, json.dumps(networks(config), ensure_ascii=False, indent=1) + "\n")
    print(f"inventory: {state.files:,} files, {len(state.labels):,} of them with labels")
    return layout.manifests / NAME


def set_input(text: str, params: Path = PARAMS) -> None:
    """Write ``data.input`` and ``data.name`` into `params`; everything else in it stays as it is.

    Raises:
        UserError: the input `text` does not exist, or its path is not UTF-8.
    """
    check_utf8("--input", text)
    if not is_folder(path := address(text)) and not (is_file(path) and path.suffix.lower() in FILES):
        raise UserError(f"{text} is not a folder; name a folder of photos, or a {', '.join(FILES)} file")
    values = {"input": text, "name": name_of_input(text)}
    content = params.read_text(encoding="utf-8")
    document = yaml.compose(content)
    assert document is not None  # the configuration was read from it
    sections = {key.value: section for key, section in document.value}
    for key, node in reversed(sections["data"].value):
        # Quoted, because folders may be called 2020, null or yes.
        value = json.dumps(values[key.value], ensure_ascii=False)
        content = content[: node.start_mark.index] + value + content[node.end_mark.index :]
    write_text(params, content)
    print(f"{params.name}: data.input is now {text}, data.name {values['name']}")


def main() -> None:
    """Read the command line and write both files into ``manifests/``."""
    parser = command.parser(
        "List the input, with the size and time of every file, for the DVC graph.",
        "  python -m pipeline.inventory\n  python -m pipeline.inventory --input photos/",
    )
    parser.add_argument(
        "--input",
        metavar="INPUT",
        help="instead of listing, write this folder of photos, data set, table of paths, tar, or the address "
        "of one (s3://...) into params.yaml",
    )
    flags = parser.parse_args()
    if flags.input is not None:
        set_input(flags.input)
    else:
        inventory(command.config_from(flags), Layout.at(DEFAULT_SHARDS))


if __name__ == "__main__":
    command.run(main)
