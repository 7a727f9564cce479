"""Verify a whole set: its manifests here, its tars side by side on the cluster.

Of each tar, names, extents, bytes and decoded content are compared with its rows of the manifest.
"""

import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common import members, tables
from common.cell_counts import cell_class_counts
from common.layout import Layout
from common.pipeline_config import Cluster
from common.progress import progress
from common.shards import Extent, extent_of
from common.storage import Address
from pipeline.runner.tasks import read_bounded
from pipeline.verify.agreement import Agreement
from pipeline.verify.findings import Findings
from pipeline.verify.manifests import check_manifests, join_manifests, open_manifests

# The check that a member belongs to, and the function that decodes it.
DECODERS: Final = {
    "jpg": ("faces", members.decode_face),
    "mask.png": ("masks", members.decode_mask),
    "parts.npy": ("cell-counts", members.decode_cell_counts),
    "json": ("metadata", members.decode_metadata),
    **dict.fromkeys(members.FEATURE_MEMBERS, ("features", members.decode_features)),
}


def verify(
    cluster: Cluster, layout: Layout, other: Layout | None = None, agreement: Agreement | None = None
) -> Findings:
    """Everything that is wrong with a finished set.

    Memory holds the rows of the shards that are being read, and per worker one sample. The masks are compared
    with those of `other`, a set of the same faces; `agreement`, without counts, gets those of the comparison.

    Raises:
        UserError: the cluster cannot be reached, or the other set is missing, damaged or does not fit. Damage
            of the set itself is a finding, not an error.
    """
    findings = Findings(agreement=agreement)
    with tables.connect() as database:
        samples = open_manifests(database, layout, findings)
        if samples is None:
            return findings
        names = check_manifests(database, samples, layout, findings)
        compared = join_manifests(database, other)
        query = 'FROM joined WHERE shard = $1 ORDER BY "mask.png.offset"'
        tars = ((name, database.sql(query, params=[name]).to_arrow_table()) for name in names)
        check = partial(verify_tar, layout.shards, other.shards if other else None, agreement)
        reports: dict[str, Findings] = {}
        with progress("verify", len(names), "shards") as bar:
            for (name, _), report in read_bounded(cluster, check, tars, len(names)):
                reports[name] = report
                bar.update()
    if agreement is not None:
        agreement.counts.update(compared)
    for name in names:
        findings.merge(reports[name])
    findings.add_unusual_shapes()
    return findings


def verify_tar(
    root: Address, other: Address | None, agreement: Agreement | None, tar: tuple[str, pa.Table]
) -> Findings:
    """Read a whole tar of `root`, one sample in memory at a time, and report all that is wrong with it.

    `tar` is its name in the manifests and its rows of the table ``joined``. `agreement`, without counts, is
    of the comparison with the set whose shards lie in `other`.
    """
    findings = Findings(agreement=agreement)
    shard, rows = tar[0], tar[1].to_pylist()
    listed = {f"{row['key']}.{name}" for row in rows for name in _members(row)}
    try:
        with (root / shard).open("rb") as stream:
            length = stream.seek(0, 2)
            extents = _walk(stream, length, shard, findings)
            if not findings.counts["tars"]:  # from which missing members follow
                for name in sorted(listed - extents.keys()):
                    findings.add("members", f"{shard}: {name} is not in the tar")
                for name in sorted(extents.keys() - listed):
                    findings.add("members", f"{shard}: {name!r} is not in the manifest")
            whole = {name: each for name, each in extents.items() if each.offset + each.size <= length}
            for row in rows:
                _check_sample(row, _decode(row, whole, stream, shard, findings), other, findings)
    except OSError as error:
        findings.add("tars", f"{shard}: {error.strerror or error}")
    return findings


def _members(row: Mapping[str, Any]) -> list[str]:
    return [name for name in DECODERS if name in members.MEMBERS or row.get(f"{name}.size") is not None]


def _walk(stream: BinaryIO, length: int, name: str, findings: Findings) -> dict[str, Extent]:
    """The extent of each member by the tar's headers; damage of the archive becomes a finding."""
    extents: dict[str, Extent] = {}
    stream.seek(0)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for entry in tar:
                if entry.name in extents or not entry.isfile():
                    problem = "occurs twice" if entry.name in extents else "is not a file"
                    findings.add("members", f"{name}: {entry.name!r} {problem}")
                extents[entry.name] = Extent(entry.offset_data, entry.size)
            stream.seek(tar.offset)
            # A tar ends with at least two blocks of zeros, at a whole record.
            blank = not any(any(chunk) for chunk in iter(lambda: stream.read(1 << 20), b""))
            if length < tar.offset + 2 * tarfile.BLOCKSIZE or length % tarfile.RECORDSIZE or not blank:
                raise tarfile.ReadError(f"neither a member nor the end of a tar at byte {tar.offset:,}")
    except (tarfile.TarError, ValueError, OverflowError) as error:
        findings.add("tars", f"{name}: {error}, after {len(extents):,} members in {length:,} bytes")
    return extents


def _decode(
    row: Mapping[str, Any], extents: Mapping[str, Extent], stream: BinaryIO, tar: str, findings: Findings
) -> dict[str, Any]:
    """The members of a sample by name, without those that lie, read or decode otherwise than they should."""
    decoded = {}
    for name in _members(row):
        where = f"{tar}: {row['key']}.{name}"
        extent, listed = extents.get(f"{row['key']}.{name}"), extent_of(row, name)
        if extent is None:
            continue  # reported already, as a missing member or a truncated tar
        if extent != listed:
            findings.add("extents", f"{where}: {extent}, but the manifest lists {listed}")
            continue
        stream.seek(extent.offset)
        data = stream.read(extent.size)
        if (crc := zlib.crc32(data)) != (written := row[f"{name}.crc32"]):
            findings.add("checksums", f"{where}: CRC-32 {crc}, written with {written}")
            continue
        check, decode = DECODERS[name]
        try:
            decoded[name] = decode(data)
        except members.BrokenSample as error:
            findings.add(check, f"{where}: {error}")
    return decoded


def _check_sample(
    row: Mapping[str, Any], decoded: dict[str, Any], other: Address | None, findings: Findings
) -> None:
    """Check what a sample's members say of each other; one that fails is left out of all later checks."""
    where = f"{row['shard']}: {row['key']}"
    face, mask, counts = (decoded.get(name) for name in ("jpg", "mask.png", "parts.npy"))
    if face is not None and face.shape[0] != face.shape[1]:
        findings.add("faces", f"{where}.jpg: {face.shape[1]} x {face.shape[0]} pixels are not square")
        face = None
        del decoded["jpg"]
    if mask is not None and mask.shape != (square := (len(mask if face is None else face),) * 2):
        findings.add("masks", f"{where}.mask.png: shape {mask.shape}, not that of a face, {square}")
        mask = None
    if mask is None:
        counts = None
    elif counts is not None and not _are_counts(counts, mask):
        findings.add("cell-counts", f"{where}.parts.npy: not the class counts of the mask")
        counts = None
    elif counts is not None and findings.agreement is not None and other is not None and row["other"]:
        findings.agreement.add(mask, counts, other, row["other"])
    for name in ("jpg", *members.FEATURE_MEMBERS):
        if name in decoded:
            shape = (DECODERS[name][0], name, decoded[name].shape)
            findings.shapes[shape] += 1
            findings.first.setdefault(shape, where)
    if "json" in decoded and (wrong := list(_disagreements(decoded["json"], row, counts))):
        findings.add("metadata", f"{where}.json: disagrees on {', '.join(wrong)}")


def _are_counts(counts: NDArray[np.uint16], mask: NDArray[np.uint8]) -> bool:
    with suppress(ValueError):  # a grid of more cells than pixels
        return np.array_equal(counts, cell_class_counts(mask, len(counts)))
    return False


def _disagreements(
    metadata: Mapping[str, Any], row: Mapping[str, Any], counts: NDArray[np.uint16] | None
) -> Iterator[str]:
    for name in ("source", "sha256"):
        if row[name] not in (None, metadata.get(name)):
            yield name
    if not row["key"].startswith(str(metadata.get("sha256"))[:16]):
        yield "sha256 (of another key)"
    if not _close(metadata.get("box_score"), row["box_score"], 1e-6):
        yield "box_score"
    values = metadata.get("confidence")
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        values = []
    seen = [value for value in values if value > 0]
    classes = [value > 0 for value in values]
    if (
        not seen
        or not _close(sum(seen) / len(seen), row["confidence"], 2e-4)  # they have four decimals
        or (counts is not None and classes != counts.any(axis=(0, 1)).tolist())
    ):
        yield "confidence"


def _close(left: Any, right: Any, tolerance: float) -> bool:
    if left is None or right is None:
        return left is right
    return isinstance(left, int | float) and abs(left - right) <= tolerance
