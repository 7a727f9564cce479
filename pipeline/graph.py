"""``python -m pipeline.graph``: what the DVC graph must know beside the stages.

It writes which networks of the user's own parsing reads, so that parsing runs again when one changes. With
``--input`` it points params.yaml, and so the graph, at another input instead.
"""

import json
from pathlib import Path

import yaml

from common import command
from common.config import PARAMS, Config
from common.errors import UserError
from common.files import write_text
from common.layout import DEFAULT_SHARDS, Layout, mark_output
from common.parsing.class_map import NAMED, SUFFIXES
from common.storage import address, check_utf8, is_file, is_folder
from common.weights import file_sha256
from pipeline.command import FILES, name_of_input


def networks(config: Config) -> dict[str, str | None]:
    """The SHA-256 of the files that parsing is configured to read, and of their descriptions, by path.

    None for a file that is missing, about which parsing complains.
    """
    configured = (config.weights.parser, *config.parse.features_from)
    named = {Path(name) for name in configured if name not in (None, *NAMED)}
    described = {path.with_suffix(suffix) for path in named for suffix in SUFFIXES}
    present = {path for path in named | described if path.is_file()}
    return {str(path): file_sha256(path) if path in present else None for path in sorted(named | present)}


def write_networks(config: Config, layout: Layout) -> None:
    """Write `networks` into the manifests.

    Raises:
        UserError: a folder of outputs is a link out of the checkout.
    """
    for name in ("sample", "manifests", "aligned", "shards", "runs"):  # folders that the DVC graph writes
        if not (target := Path(name).resolve()).is_relative_to(Path.cwd().resolve()):
            raise UserError(
                f"{name} is a link to {target}, and DVC accepts no output outside of this folder; delete "
                "the link, and move the whole checkout to that disk, or mount the disk here (mount --bind)"
            )
    mark_output(layout.manifests)
    content = json.dumps(networks(config), ensure_ascii=False, indent=1) + "\n"
    write_text(layout.manifests / "networks.json", content)


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
    """Read the command line, and write ``manifests/networks.json`` or params.yaml."""
    parser = command.parser(
        "Write down which networks of your own parsing reads, for the DVC graph.",
        "  python -m pipeline.graph\n  python -m pipeline.graph --input photos/",
    )
    text = "instead write this folder of photos, data set, table of paths, tar, or the address of one "
    parser.add_argument("--input", metavar="INPUT", help=f"{text}(s3://...) into params.yaml")
    flags = parser.parse_args()
    if flags.input is not None:
        set_input(flags.input)
    else:
        write_networks(command.config_from(flags), Layout.at(DEFAULT_SHARDS))


if __name__ == "__main__":
    command.run(main)
