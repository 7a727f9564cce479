"""Verify a whole set: the manifests here, the tars side by side on the cluster."""

from typing import Final

from common import tables
from common.layout import Layout
from common.pipeline_config import Cluster
from common.progress import progress
from pipeline.runner.cluster import read_bounded
from pipeline.verify.findings import Findings
from pipeline.verify.manifests import check_manifests, check_tars, open_manifests
from pipeline.verify.shard import VerifyTask, verify_tar

ROWS: Final = """
SELECT samples.*, sha256
FROM samples LEFT JOIN (
    SELECT source, any_value(sha256) AS sha256 FROM source WHERE shard = $1 GROUP BY source
) USING (source)
WHERE shard = $1 ORDER BY "mask.png.offset"
"""
"""The rows of one shard, with the SHA-256 of the source of each."""


def verify(cluster: Cluster, layout: Layout) -> Findings:
    """Everything that is wrong with a finished set.

    Memory holds the rows of the shards that are being read, and per worker one sample.

    Args:
        cluster: where the tars are read.
        layout: where the set lies.

    Raises:
        UserError: the cluster cannot be reached. Damage is a finding, not an error.
    """
    findings = Findings()
    reports: dict[str, Findings] = {}
    with tables.connect() as database:
        samples = open_manifests(database, layout, findings)
        if samples is None:
            findings.unchecked = True
            return findings
        check_manifests(database, samples, findings)
        names = check_tars(database, layout, samples.metadata["dataset"], findings)
        tasks = (
            VerifyTask(
                layout.shards / name,
                name,
                database.sql(ROWS, params=[name]).to_arrow_table(),
                samples.attributes,
            )
            for name in names
        )
        with progress("verify", len(names), "shards") as bar:
            for task, report in read_bounded(cluster, verify_tar, tasks, len(names)):
                reports[task.name] = report
                bar.update()
    for name in names:
        findings.merge(reports[name])
    findings.add_unusual_shapes()
    return findings
