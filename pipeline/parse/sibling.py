"""Sibling sets: the same aligned faces, parsed again into another folder."""

from dataclasses import replace

from common import manifest
from common.errors import UserError
from common.files import replacing
from common.layout import Layout
from common.storage import is_file


def make_sibling(origin: Layout, output: Layout) -> Layout:
    """Prepare `output` for the faces that `origin` has aligned, and return the layout to parse with.

    ``source.parquet`` is copied, so that the sibling is complete by itself; the aligned
    faces stay where they are, and no photo is opened.

    Raises:
        UserError: `origin` has no manifest, or `output` is the same set or holds another data set.
    """
    source = manifest.read(origin.source)
    if output.shards.resolve() == origin.shards.resolve():
        raise UserError(f"{output.shards} is the set that --from names; give the new masks another --output")
    if is_file(output.source):
        present = manifest.read(output.source).metadata.get("dataset")
        if present != source.metadata.get("dataset"):
            raise UserError(
                f"{output.shards} holds the data set {present}, not {source.metadata.get('dataset')}; "
                "give the new masks another --output"
            )
    content = origin.source.read_bytes()
    if not is_file(output.source) or output.source.read_bytes() != content:
        with replacing(output.source) as temporary:
            temporary.write_bytes(content)
    return replace(output, aligned=origin.aligned)
