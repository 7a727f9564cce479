"""Verify a whole set: the manifests here, the tars side by side on the cluster."""

from common import tables
from common.layout import Layout
from common.pipeline_config import Cluster
from common.progress import progress
from pipeline.runner.tasks import read_bounded
from pipeline.verify.agreement import Agreement
from pipeline.verify.findings import Findings
from pipeline.verify.manifests import check_manifests, compare_manifests, join_manifests, open_manifests
from pipeline.verify.shard import VerifyTask, verify_tar


def verify(
    cluster: Cluster, layout: Layout, other: Layout | None = None, agreement: Agreement | None = None
) -> Findings:
    """Everything that is wrong with a finished set.

    Memory holds the rows of the shards that are being read, and per worker one sample.

    Args:
        cluster: where the tars are read.
        layout: where the set lies.
        other: a set of the same faces, whose masks are compared with those of this one.
        agreement: without counts; gets those of the comparison.

    Raises:
        UserError: the cluster cannot be reached, or the other set is missing, damaged or does not fit. Damage
            of the set itself is a finding, not an error.
    """
    findings = Findings(agreement=agreement)
    reports: dict[str, Findings] = {}
    with tables.connect() as database:
        samples = open_manifests(database, layout, findings)
        if samples is None:
            return findings
        names = check_manifests(database, samples, layout, findings)
        join_manifests(database, other)
        query = 'FROM joined WHERE shard = $1 ORDER BY "mask.png.offset"'
        tasks = (
            VerifyTask(
                layout.shards,
                name,
                database.sql(query, params=[name]).to_arrow_table(),
                None if other is None else other.shards,
                agreement,
            )
            for name in names
        )
        with progress("verify", len(names), "shards") as bar:
            for task, report in read_bounded(cluster, verify_tar, tasks, len(names)):
                reports[task.name] = report
                bar.update()
        if agreement is not None:
            agreement.counts.update(compare_manifests(database))
    for name in names:
        findings.merge(reports[name])
    findings.add_unusual_shapes()
    return findings
