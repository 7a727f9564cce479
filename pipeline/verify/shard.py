"""One tar against its rows of the manifest: names, extents, bytes, and decoded content."""

import tarfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa

from common.cell_counts import cell_class_counts
from common.shards import (
    FEATURE_MEMBERS,
    MEMBERS,
    BrokenSample,
    Extent,
    decode_cell_counts,
    decode_face,
    decode_features,
    decode_mask,
    decode_metadata,
)
from common.storage import Address
from pipeline.verify.findings import Findings

CONFIDENCE_TOLERANCE: Final = 2e-4
"""Greatest difference of a stored mean confidence from that of the stored confidences, which
have four decimals."""

CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class VerifyTask:
    """One tar to read back.

    Attributes:
        tar: its path.
        name: its name in the manifests.
        rows: its rows of ``shards.parquet``, and ``sha256`` of each row's source.
        attributes: names of the label columns.
    """

    tar: Address
    name: str
    rows: pa.Table
    attributes: tuple[str, ...]


@dataclass
class TarReport:
    """The result for one tar.

    Attributes:
        findings: the damage.
        sizes: how many faces have each side in pixels.
        first: the first key of each side.
        shapes: of the features, by member.
    """

    findings: Findings = field(default_factory=Findings)
    sizes: Counter[int] = field(default_factory=Counter)
    first: dict[int, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def verify_tar(task: VerifyTask) -> TarReport:
    """Read a whole tar, one member in memory at a time, and report all that is wrong with it."""
    report = TarReport()
    try:
        with task.tar.open("rb") as stream:
            length = stream.seek(0, 2)
            extents = _walk(stream, length, task, report.findings)
            rows = task.rows.to_pylist()
            _check_members(rows, extents, task, report.findings)
            for row in rows:
                _check_sample(row, extents, stream, length, task, report)
    except OSError as error:
        report.findings.add("tars", f"{task.name}: {error.strerror or error}")
    return report


def _walk(stream: BinaryIO, length: int, task: VerifyTask, findings: Findings) -> dict[str, Extent]:
    """The extent of each member by the tar's headers; damage of the archive becomes a finding."""
    extents: dict[str, Extent] = {}
    end = 0
    stream.seek(0)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for entry in tar:
                if entry.name in extents:
                    findings.add("members", f"{task.name}: {entry.name!r} occurs twice")
                elif not entry.isfile():
                    findings.add("members", f"{task.name}: {entry.name!r} is not a file")
                extents[entry.name] = Extent(entry.offset_data, entry.size)
            end = tar.offset
    except (tarfile.TarError, ValueError, OverflowError) as error:
        findings.add("tars", f"{task.name}: {error} after {len(extents):,} members")
        return extents
    if not _ends(stream, end, length):
        findings.add(
            "tars",
            f"{task.name}: neither a member nor the end of a tar at byte {end:,} of {length:,}, "
            f"after {len(extents):,} members",
        )
    return extents


def _ends(stream: BinaryIO, end: int, length: int) -> bool:
    """Whether a tar ends properly at byte `end`: with at least two blocks of zeros, at a whole record."""
    if length < end + 2 * tarfile.BLOCKSIZE or length % tarfile.RECORDSIZE:
        return False
    stream.seek(end)
    while chunk := stream.read(CHUNK):
        if chunk.count(0) != len(chunk):
            return False
    return True


def _check_members(
    rows: list[dict[str, Any]], extents: dict[str, Extent], task: VerifyTask, findings: Findings
) -> None:
    if findings.counts["tars"]:
        return  # missing members follow from the damage
    listed = {f"{row['key']}.{name}" for row in rows for name in _members(row)}
    for name in sorted(listed - extents.keys()):
        findings.add("members", f"{task.name}: {name} is not in the tar")
    for name in sorted(extents.keys() - listed):
        findings.add("members", f"{task.name}: {name!r} is not in the manifest")


def _check_sample(
    row: dict[str, Any],
    extents: dict[str, Extent],
    stream: BinaryIO,
    length: int,
    task: VerifyTask,
    report: TarReport,
) -> None:
    """Check one sample; a member that fails a check is left out of all later ones."""
    findings, where = report.findings, f"{task.name}: {row['key']}"
    members = {}
    for name in _members(row):
        extent = extents.get(f"{row['key']}.{name}")
        if extent is None or extent.offset + extent.size > length:
            continue  # reported already, as a missing member or a truncated tar
        listed = (row[f"{name}.offset"], row[f"{name}.size"])
        if listed != (extent.offset, extent.size):
            findings.add(
                "extents", f"{where}.{name}: at {extent.offset}, {extent.size} bytes; listed at {listed}"
            )
            continue
        stream.seek(extent.offset)
        data = stream.read(extent.size)
        checksum = row.get(f"{name}.crc32")
        if checksum is not None and zlib.crc32(data) != checksum:
            findings.add("checksums", f"{where}.{name}: CRC-32 {zlib.crc32(data)}, written with {checksum}")
            continue
        members[name] = data
    side = _check_face(members.get("jpg"), where, findings)
    if side:
        report.sizes[side] += 1
        report.first.setdefault(side, where)
    mask = _check_mask(members.get("mask.png"), side, where, findings)
    counts = _check_cell_counts(members.get("parts.npy"), mask, where, findings)
    for name in FEATURE_MEMBERS:
        _check_features(members.get(name), name, where, report)
    _check_metadata(members.get("json"), row, counts, task.attributes, where, findings)


def _members(row: dict[str, Any]) -> list[str]:
    """The members that the manifest lists; features are optional."""
    return [*MEMBERS, *(name for name in FEATURE_MEMBERS if row.get(f"{name}.size") is not None)]


def _check_face(data: bytes | None, where: str, findings: Findings) -> int:
    """The side of the face in pixels, 0 if it is not known."""
    if data is None:
        return 0
    try:
        height, width, _ = decode_face(data).shape
    except BrokenSample as error:
        findings.add("faces", f"{where}.jpg: {error}")
        return 0
    if height != width:
        findings.add("faces", f"{where}.jpg: {width} x {height} pixels are not square")
        return 0
    return int(height)


def _check_mask(data: bytes | None, side: int, where: str, findings: Findings) -> np.ndarray | None:
    if data is None:
        return None
    try:
        mask = decode_mask(data)
    except BrokenSample as error:
        findings.add("masks", f"{where}.mask.png: {error}")
        return None
    height, width = mask.shape
    if height != width or (side and height != side):
        face = f"its face has {side} x {side}" if side else "a square was expected"
        findings.add("masks", f"{where}.mask.png: {width} x {height} pixels; {face}")
        return None
    return mask


def _check_cell_counts(
    data: bytes | None, mask: np.ndarray | None, where: str, findings: Findings
) -> np.ndarray | None:
    """The class counts if they are those of the mask."""
    if data is None:
        return None
    try:
        counts = decode_cell_counts(data)
        wrong = mask is not None and not np.array_equal(counts, cell_class_counts(mask, counts.shape[0]))
    except ValueError as error:
        findings.add("cell-counts", f"{where}.parts.npy: {error}")
        return None
    if wrong:
        findings.add("cell-counts", f"{where}.parts.npy: not the class counts of the mask")
    return counts if mask is not None and not wrong else None


def _check_features(data: bytes | None, name: str, where: str, report: TarReport) -> None:
    if data is None:
        return
    try:
        shape = decode_features(data).shape
        expected = report.shapes.setdefault(name, shape)
        if shape != expected:
            raise BrokenSample(f"shape {shape}, but {expected} in the samples before it")
    except BrokenSample as error:
        report.findings.add("features", f"{where}.{name}: {error}")


def _check_metadata(
    data: bytes | None,
    row: dict[str, Any],
    counts: np.ndarray | None,
    attributes: tuple[str, ...],
    where: str,
    findings: Findings,
) -> None:
    if data is None:
        return
    try:
        metadata = decode_metadata(data)
    except BrokenSample as error:
        findings.add("metadata", f"{where}.json: {error}")
        return
    labels = {name: row[name] for name in attributes if row[name] is not None}
    repeated = {"split": row["split"], "identity": row["identity"], "attributes": labels or None}
    expected = {"source": row["source"]} | {name: repeated[name] for name in repeated if name in metadata}
    if row["sha256"] is not None:
        expected["sha256"] = row["sha256"]
    wrong = [name for name, value in expected.items() if name not in metadata or metadata[name] != value]
    if not row["key"].startswith(str(metadata.get("sha256"))[:16]):
        wrong.append("sha256 (of another key)")
    if not _close(metadata.get("box_score"), row["box_score"], 1e-6):
        wrong.append("box_score")
    if not _confident(metadata.get("confidence"), row["confidence"], counts):
        wrong.append("confidence")
    if wrong:
        findings.add("metadata", f"{where}.json: disagrees on {', '.join(wrong)}")


def _close(left: Any, right: Any, tolerance: float) -> bool:
    if left is None or right is None:
        return left is right
    return isinstance(left, int | float) and abs(left - right) <= tolerance


def _confident(values: Any, mean: float | None, counts: np.ndarray | None) -> bool:
    """Whether there is a confidence for the classes that have pixels, and the manifest has their mean."""
    numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    if not numbers or mean is None:
        return False
    seen = [value for value in values if value > 0]
    if not seen or not _close(sum(seen) / len(seen), mean, CONFIDENCE_TOLERANCE):
        return False
    return counts is None or [value > 0 for value in values] == (counts.sum(axis=(0, 1)) > 0).tolist()
