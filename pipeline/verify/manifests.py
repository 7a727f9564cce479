"""The manifests against each other and against the folder: sources, splits, tars.

Everything is computed on Arrow columns, so that no Python object is made per row.
"""

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from common import manifest
from common.errors import UserError
from common.layout import SPLITS, Layout
from common.shards import MEMBERS
from pipeline.verify.findings import EXAMPLES, Findings

CHECKSUMS = tuple(f"{name}.crc32" for name in MEMBERS)


@dataclass(frozen=True)
class Manifests:
    """The three tables of a set, with all the columns that the format promises."""

    source: pa.Table
    samples: pa.Table
    quarantine: pa.Table
    attributes: tuple[str, ...]
    dataset: str


def read_manifests(layout: Layout, findings: Findings) -> Manifests | None:
    """The manifests, or None and a finding if one is missing, unreadable or lacks a column."""
    tables: dict[str, manifest.Manifest] = {}
    for path, fields in (
        (layout.source, manifest.SOURCE_FIELDS),
        (layout.samples, manifest.SAMPLE_FIELDS),
        (layout.quarantine, manifest.QUARANTINE_FIELDS),
    ):
        try:
            read = manifest.read(path)
            wanted = list(fields) + [pa.field(name, pa.int8()) for name in read.attributes]
            table = _with_columns(read.table, wanted, findings)
            tables[path.name] = manifest.Manifest(table, read.attributes, read.metadata)
        except (UserError, pa.ArrowException, LookupError, ValueError) as error:
            findings.add("manifests", f"{path.name}: {error}")
    if len(tables) < 3:
        return None
    source, samples = tables[layout.source.name], tables[layout.samples.name]
    if source.attributes != samples.attributes or source.metadata.get("dataset") is None:
        findings.add("manifests", "the manifests are of different data sets, or do not name theirs")
        return None
    numerics = samples.metadata.get(manifest.NUMERICS, "").split("\n")
    if len(numerics) > 1:
        findings.notes.append(f"mixed: the shards were parsed on {'; '.join(numerics)}")
    quarantine = tables[layout.quarantine.name].table
    return Manifests(source.table, samples.table, quarantine, source.attributes, source.metadata["dataset"])


def _with_columns(table: pa.Table, fields: list[pa.Field], findings: Findings) -> pa.Table:
    """The table with its columns in the promised types; ArrowException or LookupError if it cannot be."""
    table.validate(full=True)
    for wanted in fields:
        if wanted.name not in table.column_names and wanted.name in CHECKSUMS:
            findings.skipped["checksums"] = "made by a version that stored none"
            table = table.append_column(wanted, pa.nulls(table.num_rows, wanted.type))
        elif wanted.name not in table.column_names:
            raise LookupError(f"has no column {wanted.name}")
        else:
            index = table.column_names.index(wanted.name)
            table = table.set_column(index, wanted, table[wanted.name].cast(wanted.type))
    return table


def check_manifests(manifests: Manifests, findings: Findings) -> None:
    """Sources, keys, splits and identities over the whole set."""
    _check_sources(manifests, findings)
    _check_source_rows(manifests, findings)
    samples = manifests.samples
    _report("keys", repeated(samples["key"]), "in more than one row", findings)
    for name in ("key", "source"):
        _report("splits", in_two_splits(samples, name), "in more than one split", findings)
    _report("identities", in_two_splits(samples, "identity"), "in more than one split", findings)
    known = pc.is_in(samples["split"], value_set=pa.array(SPLITS))
    pattern = f"^{re.escape(manifests.dataset)}/({'|'.join(SPLITS)})-[0-9]+[.]tar$"
    named = pc.fill_null(pc.match_substring_regex(samples["shard"], pattern), False)
    wrong = samples.filter(pc.invert(pc.and_(known, named)))
    _report("splits", wrong["key"], "in a shard or a split of an unknown name", findings)


def _check_sources(manifests: Manifests, findings: Findings) -> None:
    source, quarantined = manifests.source["source"], pc.unique(manifests.quarantine["source"])
    kept = pc.unique(manifests.samples["source"])
    _report("sources", repeated(source), "in more than one row of source.parquet", findings)
    known = pa.concat_arrays([kept, quarantined])
    _report("sources", _without(source, known), "neither a sample nor quarantined", findings)
    _report("sources", _without(known, source), "not in source.parquet", findings)
    both = kept.filter(pc.is_in(kept, value_set=quarantined))
    _report("sources", both, "both a sample and quarantined", findings)
    unexplained = manifests.quarantine.filter(pc.is_null(manifests.quarantine["reason"]))
    _report("sources", unexplained["source"], "quarantined without a reason", findings)


def _check_source_rows(manifests: Manifests, findings: Findings) -> None:
    samples = manifests.samples
    origin = source_rows(manifests)
    known = pc.is_valid(origin["source"])
    differs = pa.chunked_array([pa.repeat(False, samples.num_rows)])
    for name in ("shard", "split", "identity", *manifests.attributes):
        differs = pc.or_(differs, _differs(samples[name], origin[name]))
    wrong = samples.filter(pc.and_(known, differs))
    _report("source-rows", wrong["key"], "differs from its row in source.parquet", findings)


def source_rows(manifests: Manifests) -> pa.Table:
    """The row of ``source.parquet`` of each sample, in the order of the samples; null where there is none."""
    index = pc.index_in(manifests.samples["source"], value_set=manifests.source["source"])
    return manifests.source.take(index)


def check_tars(manifests: Manifests, layout: Layout, findings: Findings) -> set[str]:
    """The folder's tars against those that the manifests name; returns the names of the folder's."""
    planned = set(pc.unique(manifests.source["shard"].drop_null()).to_pylist())
    named = planned | set(pc.unique(manifests.samples["shard"].drop_null()).to_pylist())
    folder = layout.shards / manifests.dataset
    present = {f"{manifests.dataset}/{path.name}" for path in folder.glob("*.tar")}
    missing, extra = sorted(named - present), sorted(present - named)
    findings.add_all("missing-tars", [f"{name}: no such file" for name in missing], len(missing))
    findings.add_all("extra-tars", [f"{name}: in no manifest" for name in extra], len(extra))
    return present


def samples_with_sha256(manifests: Manifests) -> pa.Table:
    """The samples, and ``sha256`` of the source of each."""
    return manifests.samples.append_column("sha256", source_rows(manifests)["sha256"])


def _differs(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    unequal = pc.fill_null(pc.not_equal(left, right), False)
    return pc.or_(unequal, pc.xor(pc.is_null(left), pc.is_null(right)))


def repeated(values: pa.ChunkedArray) -> pa.Array:
    """The values that occur more than once."""
    counts = pc.value_counts(values)
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1))


def in_two_splits(samples: pa.Table, name: str) -> pa.ChunkedArray:
    """The values of the column `name` that occur in more than one split; nulls are ignored."""
    # Counting first, because grouping takes more memory and values that occur once need none.
    twice = repeated(samples[name].drop_null())
    known = samples.select([name, "split"]).filter(pc.is_in(samples[name], twice))
    splits = known.group_by(name).aggregate([("split", "count_distinct")])
    return splits[name].filter(pc.greater(splits["split_count_distinct"], 1))


def _without(values: pa.ChunkedArray | pa.Array, known: pa.ChunkedArray | pa.Array) -> pa.Array:
    return values.filter(pc.invert(pc.is_in(values, value_set=known)))


def _report(check: str, values: pa.Array | pa.ChunkedArray, problem: str, findings: Findings) -> None:
    examples = values.slice(0, EXAMPLES).to_pylist()
    findings.add_all(check, [f"{value}: {problem}" for value in examples], len(values))
