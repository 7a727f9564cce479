"""Freshness: a result has a record with everything that it was made from; if that differs now, it is stale.

What a result is made from is a JSON object: the settings that were read, hashes of the inputs, and the hash
of the code. Shards, runs and cells of the study all keep such a record, written after the result itself.

The hash of the code covers the modules that a module imports, and theirs. The walk is static: an import
inside a function counts, one by a computed name does not.
"""

import ast
import hashlib
import json
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from common.files import write_text
from common.storage import Address, read_bytes

# The checkout, or the folder that the packages are installed in.
ROOT: Final = Path(__file__).resolve().parents[1]


@cache
def imported_modules(module: str, root: Path = ROOT) -> list[Path]:
    """The files that running `module` depends on, sorted, relative to `root`: its imports, theirs, and so on.

    Only files of this project count: the modules below `root`, the folder of the top-level packages, the
    packages they lie in, and the data files beside them or in a folder ``templates`` there. A package stands
    for its ``__init__.py``, not for what lies in it.

    Raises:
        ModuleNotFoundError: `root` has no such module.
    """
    if _source(module, root) is None:
        raise ModuleNotFoundError(f"{root} has no module {module}", name=module)
    sources: dict[str, Path] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        source = _source(name, root)
        if source is None or name in sources:
            continue
        sources[name] = source
        package, _, _ = name.rpartition(".")
        if package:
            pending.append(package)
        pending.extend(imports(_tree(source.read_bytes()), name if source.name == "__init__.py" else package))
    folders = {
        folder for source in sources.values() for folder in (source.parent, source.parent / "templates")
    }
    beside = (file for folder in folders if folder.is_dir() for file in folder.iterdir() if file.is_file())
    data = (file for file in beside if file.suffix in (".css", ".j2", ".json", ".svg", ".yaml"))
    return sorted(file.relative_to(root) for file in {*sources.values(), *data})


@cache
def code_hash(module: str, root: Path = ROOT) -> str:
    """SHA-256 in hexadecimal of the files of `imported_modules`, and of their names.

    Comments, docstrings and formatting do not count: they change no result. The hash may differ
    between minor versions of Python, whose syntax trees differ.

    Raises:
        ModuleNotFoundError: `root` has no such module.
    """
    digest = hashlib.sha256()
    for file in imported_modules(module, root):
        content = (root / file).read_bytes()
        content = _code(content) if file.suffix == ".py" else content
        digest.update(f"{file.as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def imports(tree: ast.AST, package: str) -> set[str]:
    """Every name that may be a module in the import statements of a syntax tree of a file in `package`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names.update((base, *(f"{base}.{alias.name}" for alias in node.names)))
    return names


def _source(module: str, root: Path) -> Path | None:
    """The file of a module; None if it is not one of the project."""
    path = root.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        value = node.value
        return None if isinstance(value, ast.Constant) and isinstance(value.value, str) else node


@cache
def _tree(content: bytes) -> ast.AST:
    """A file's syntax tree without docstrings; most files belong to several modules that are hashed."""
    return _WithoutDocstrings().visit(ast.parse(content))


@cache
def _code(content: bytes) -> bytes:
    return ast.dump(_tree(content)).encode()


def git_commit(root: Path = ROOT) -> str | None:
    """The commit of the checkout at `root`; None without git, or if `root` is no checkout of its own."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None
        commit = git("rev-parse", "HEAD")
        changed = git(
            "status", "--short", "--untracked-files=no", "common", "pipeline", "training", "params.yaml"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + (" with uncommitted changes" if changed else "")


def code_version() -> str:
    """The package's release and commit, as far as they are known."""
    try:
        release = metadata.version("sspl-faces")
    except metadata.PackageNotFoundError:
        release = "not installed"
    commit = git_commit()
    return f"{release}, commit {commit}" if commit else release


def fingerprint(*values: Any) -> str:
    """A hash of JSON-able values: equal values give the same 64 hex digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_record(file: Address, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """The record in a file if its result was made from the same; None if not, or without a readable record.

    Raises:
        OSError: the store does not answer.
    """
    try:
        record: dict[str, Any] = json.loads(read_bytes(file))
    except (FileNotFoundError, ValueError):
        return None
    return record if record.get("made_from") == made_from else None


def write_record(file: Address, content: dict[str, Any], made_from: dict[str, Any]) -> None:
    """Write what a result says of itself, and what it was made from; to be called after the result exists."""
    write_text(file, json.dumps({**content, "made_from": made_from}, indent=1) + "\n")
