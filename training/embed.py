"""``python -m training.embed``: the features that shards hold, as a Parquet table for other tools."""

from pathlib import Path

from common import command
from common.errors import UserError
from common.files import replacing
from common.layout import SPLITS, Layout
from common.members import OF_CLASSES
from common.pipeline_config import Stream
from common.progress import progress

EXAMPLES = """\
  python -m training.embed --shards OUT --output features.parquet"""
ABOUT = ("key", "source", "identity", "split")  # Columns of ``shards.parquet`` that come before the features


def main() -> None:
    """Read the command line and write the table."""
    parser = command.parser(
        "Write the stored features of all faces to Parquet: a row per face with key, source, identity and "
        "split, and a list of numbers for each network and for the statistics of the face regions.",
        EXAMPLES,
        "finished shards",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="a .parquet file")
    options = parser.parse_args()
    if options.output.suffix.lower() != ".parquet":
        raise UserError(f"{options.output}: the name must end in .parquet, the format")
    layout, stream = Layout.at(options.shards), command.config_from(options).stream
    faces, columns = write_features(layout, stream, options.output)
    print(f"embed: {faces:,} faces, {', '.join(columns)}; {options.output}")


def write_features(layout: Layout, stream: Stream, output: Path) -> tuple[int, list[str]]:
    """Write `ABOUT` and the features of the blocks of `region_blocks` that describe the whole face, as lists
    of float32 of fixed size under the name of their block or network, and those of the classes, one class
    after the other, under this name with `OF_CLASSES`.

    Returns:
        How many faces there are, and the names of the columns of features.

    Raises:
        UserError: the shards have no faces, or do not hold the features.
    """
    # Arrow and PyTorch, which --help need not wait for.
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from common import manifest
    from training.data.samples import read_samples
    from training.models.stored_features import feature_batches, parts_of, region_blocks

    samples = read_samples(layout, SPLITS, stream.folder)
    if not len(samples):
        raise UserError(f"{layout.shards}: no faces")
    blocks = region_blocks(samples.extents)
    spans: dict[str, tuple[int, int]] = {}
    for name, region, start, end in parts_of(samples, blocks, stream):
        column = name if region < 0 else name + OF_CLASSES
        spans[column] = spans.get(column, (start, end))[0], end
    listed = manifest.read(layout.samples, list(ABOUT)).table
    about = listed.take(pc.index_in(pa.array(list(samples.keys)), listed["key"].combine_chunks()))
    lists = [pa.field(name, pa.list_(pa.float32(), end - start)) for name, (start, end) in spans.items()]
    schema, read = pa.schema([*about.schema.remove_metadata(), *lists]), 0
    bar = progress("embed", len(samples), "faces")
    with replacing(output) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for features in feature_batches(samples, blocks, stream):
            arrays = [
                pa.FixedSizeListArray.from_arrays(
                    features[:, start:end].astype("float32").ravel(), end - start
                )
                for start, end in spans.values()
            ]
            rows = about.slice(read, len(features)).combine_chunks()
            writer.write_table(pa.Table.from_arrays([*rows.columns, *arrays], schema=schema))
            read += len(features)
            bar.update(len(features))
    bar.close()
    return read, list(spans)


if __name__ == "__main__":
    command.run(main)
