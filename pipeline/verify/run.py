"""Verify a whole set: the manifests here, the tars side by side on the cluster."""

from collections import Counter

from common.layout import Layout
from common.manifest import rows_by_shard
from common.pipeline_config import Cluster
from common.progress import progress
from pipeline.runner.cluster import read_bounded
from pipeline.verify.findings import CHECKS, Findings
from pipeline.verify.manifests import check_manifests, check_tars, read_manifests, samples_with_sha256
from pipeline.verify.shard import TarReport, VerifyTask, verify_tar


def verify(cluster: Cluster, layout: Layout) -> Findings:
    """Everything that is wrong with a finished set.

    Memory holds the manifests, and per worker the rows of one shard and one sample.

    Args:
        cluster: where the tars are read.
        layout: where the set lies.

    Raises:
        UserError: the cluster cannot be reached. Damage is a finding, not an error.
    """
    findings = Findings()
    manifests = read_manifests(layout, findings)
    if manifests is None:
        findings.skipped = dict.fromkeys(set(CHECKS) - {"manifests"}, "needs the manifests")
        return findings
    check_manifests(manifests, findings)
    present = check_tars(manifests, layout, findings)
    tasks = [
        VerifyTask(layout.shards / name, name, rows, manifests.attributes)
        for name, rows in rows_by_shard(samples_with_sha256(manifests))
        if name in present
    ]
    reports: dict[str, TarReport] = {}
    bar = progress("verify", sum(task.rows.num_rows for task in tasks), "samples")
    for task, report in read_bounded(cluster, verify_tar, tasks, len(tasks)):
        reports[task.name] = report
        bar.update(task.rows.num_rows)
    bar.close()
    for name in sorted(reports):
        findings.merge(reports[name].findings)
    _check_sizes(reports, findings)
    return findings


def _check_sizes(reports: dict[str, TarReport], findings: Findings) -> None:
    """Report faces whose size is not the most common one of the set."""
    sizes: Counter[int] = Counter()
    for name in sorted(reports):
        sizes.update(reports[name].sizes)
    for side, count in sizes.most_common()[1:]:
        first = next(reports[name].first[side] for name in sorted(reports) if side in reports[name].first)
        usual = sizes.most_common(1)[0][0]
        findings.add("faces", f"{first}.jpg: {side} pixels a side, most have {usual}", count)
