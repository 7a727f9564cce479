"""Exported classifiers, read back: a network's ONNX file, or the folder of a probe.

Both hold the text of ``config.json``, so that they describe themselves.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from common.errors import UserError
from training.data.loader import Batch
from training.models.classifier import KINDS, Classifier, own_fields

# A network from aligned faces, uint8 (B, S, S, 3), to probabilities; the text is its metadata ``labels``.
GRAPH: Final = "classifier.onnx"
# The arrays of a probe, the rest of its state as a JSON text, ``labels``, and what the script needs.
ARRAYS: Final = "classifier.npz"


@dataclass(kw_only=True, eq=False)
class ExportedNetwork(Classifier, kind="onnx"):
    """An exported network, run by ONNX Runtime."""

    file: Path  # `GRAPH`
    exported_from: str  # `Classifier.identity` of the network

    @property
    def identity(self) -> str:
        """That of the network, so that thresholds for it fit."""
        return self.exported_from

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """See `Classifier.logits`."""
        faces = batch.images.permute(0, 2, 3, 1).contiguous().numpy()
        (values,) = _session(self.file).run(None, {"faces": faces})
        bounded = np.clip(values, 1e-7, 1 - 1e-7)  # or logits were infinite
        logits: NDArray[np.float32] = np.log(bounded / (1 - bounded))
        return logits


@lru_cache(maxsize=4)
def _session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def load_exported(path: Path) -> Classifier:
    """The classifier in the folder of an export, or in its ONNX file alone if it is a network.

    Raises:
        UserError: there is none of this version.
    """
    file = path / GRAPH if path.is_dir() else path
    try:
        if file.with_name(ARRAYS).is_file():
            return _read_probe(file.with_name(ARRAYS))
        names, metadata, described = _described(_session(file).get_modelmeta().custom_metadata_map["labels"])
        identity = described["classifier"]
        return ExportedNetwork(attributes=names, metadata=metadata, file=file, exported_from=identity)
    except Exception as error:  # ONNX Runtime's own errors share no base class
        message = f"{file}: not what `python -m training.export` writes; export again ({error})"
        raise UserError(message[:300]) from error


def _described(text: str) -> tuple[tuple[str, ...], dict[str, Any], Mapping[str, Any]]:
    """Attributes and metadata from the text of ``config.json``, and what else it holds."""
    metadata = json.loads(text)
    content = {name: metadata.pop(name, None) for name in ("attributes", "classifier", "kind", "input")}
    return tuple(each["name"] for each in content["attributes"]), metadata, content


def _read_probe(file: Path) -> Classifier:
    with np.load(file) as stored:
        arrays = dict(stored)
    names, metadata, described = _described(str(arrays["labels"]))
    parsing = metadata["parsing"]
    parsing["file"] = str(file.with_name(parsing["file"]))
    parsing["features_from"] = [str(file.parent / each) for each in parsing["features_from"]]
    kind = KINDS[described["kind"]]
    state = {name: arrays[name] for name in own_fields(kind) if name in arrays}
    classifier = kind.from_state(names, state | json.loads(str(arrays["state"])))
    classifier.metadata = metadata
    return classifier
