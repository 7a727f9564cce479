"""The faces that a shard is parsed from: in its aligned tar, or in the finished one if they were dropped.

A finished sample holds the aligned face and its metadata unchanged, so aligned tars are a second copy once
all shards are finished. A dropped tar is an empty file beside its record, by which it stays aligned.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from common.errors import UserError
from common.files import replacing
from common.shards import decode_metadata, encode_metadata, read_shard
from common.storage import Address, is_file
from pipeline.runner.finished_shards import FinishedShards
from pipeline.runner.shard_task import ShardTask

OWN_METADATA: Final = ("parser", "parser_sha256", "parser_size", "confidence", "embedder_sha256")
"""What parsing adds to the metadata of an aligned face."""

AlignedSample = tuple[str, dict[str, bytes]]
"""The key of an aligned face, and its members ``jpg`` and ``json``."""


def read_faces(aligned: Address, stored: Address) -> Iterator[AlignedSample]:
    """The samples of an aligned tar, or, if they were dropped, the same from the finished tar `stored`.

    Raises:
        UserError: they were dropped, and there is no finished tar.
    """
    if aligned.stat().st_size:
        yield from read_shard(aligned)
        return
    if not is_file(stored):
        raise UserError(
            f"the faces of {aligned} were dropped, and {stored}, which has them too, is missing; delete "
            f"{aligned} and run the command with --input to align them again"
        )
    for key, members in read_shard(stored):
        metadata = decode_metadata(members["json"])
        for name in OWN_METADATA:
            metadata.pop(name, None)
        yield key, {"jpg": members["jpg"], "json": encode_metadata(metadata)}


def drop_faces(tars: Iterable[tuple[Address, ShardTask]], finished: FinishedShards) -> int:
    """Empty the aligned tars whose faces are all in a finished shard; returns how many were emptied.

    Args:
        tars: each aligned tar, and the task of the shard that is parsed from it.
        finished: the shards of these tasks.

    Raises:
        OSError: the store does not answer.
    """
    dropped = 0
    for aligned, task in tars:
        shard = finished.get(task.tar)
        complete = shard is not None and shard.fingerprint == task.fingerprint and not shard.quarantined
        if complete and aligned.stat().st_size:
            with replacing(aligned) as temporary:
                temporary.write_bytes(b"")
            dropped += 1
    return dropped
