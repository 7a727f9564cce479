"""Which code is running: its release, and its commit if it runs from a checkout."""

import subprocess
from importlib import metadata
from pathlib import Path


def git_commit(root: Path) -> str | None:
    """The commit of the checkout at `root`; None without git, or if `root` is no checkout of its own."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=False
        )

    try:
        result = git("rev-parse", "--show-toplevel", "HEAD")
        lines = result.stdout.split("\n")
        if result.returncode or len(lines) < 2 or Path(lines[0]).resolve() != root.resolve():
            return None
        changed = git("diff", "--quiet", "HEAD", "--", "common", "pipeline", "training", "params.yaml")
    except (OSError, subprocess.SubprocessError):
        return None
    return lines[1] + (" with uncommitted changes" if changed.returncode else "")


def code_version() -> str:
    """The package's release and commit, as far as they are known."""
    try:
        release = metadata.version("sspl-faces")
    except metadata.PackageNotFoundError:
        release = "not installed"
    commit = git_commit(Path(__file__).parent.parent)
    return f"{release}, commit {commit}" if commit else release
