"""What every way of training gives, a classifier, and its file ``classifier.pt``, which describes itself.

A subclass registers its ``kind``, which the file names, so that no reader must know it or the method.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.config import Network
from common.errors import UserError
from common.pipeline_config import Precision, Stream
from common.progress import progress
from training.data.loader import Batch, load
from training.data.sampler import sequential_batches
from training.data.samples import Samples
from training.engine import checkpoint
from training.engine.device import autocast
from training.models.attribute_network import AttributeNetwork
from training.models.blocks import to_input
from training.models.stored_features import require_members

FILE: Final = "classifier.pt"
VAL: Final = "val"  # `Classifier.thresholds_from` of thresholds that the evaluation chose on the val split
NONE_KNOWN: Final = "none known"  # `Classifier.thresholds_from` while there are no thresholds
# The classes of classifiers by the kind that their files name.
KINDS: Final[dict[str, type["Classifier"]]] = {}


@dataclass(kw_only=True, eq=False)
class Classifier(ABC):
    """Attribute logits of faces in shards.

    A subclass is a dataclass that declares its kind, ``class Mine(Classifier, kind="mine")``. Its fields are
    the state in the file; if they are more than arrays, numbers, strings and tuples of these, it overrides
    `state` and `from_state`.
    """

    kind: ClassVar[str]

    attributes: tuple[str, ...]  # names, in the order of the logits
    # How it was made: what the `Method` says of itself, ``labels``, ``config``, and its data (`provenance`).
    metadata: dict[str, Any] = field(default_factory=dict)
    # Probabilities by attribute that give the best balanced accuracy; None if the evaluation chooses them.
    thresholds: dict[str, float] | None = None
    # Where the thresholds come from: `VAL`, ``labelled faces``, or `NONE_KNOWN`.
    thresholds_from: str = NONE_KNOWN
    # What tells how often it is wrong: ``logits``, float32 (L, A), and ``labels``, int8 (L, A), 0 or 1, -1
    # where unknown, of labelled faces that a fit of the same kind left out; None if unknown.
    left_out: dict[str, Tensor] | None = None

    def __init_subclass__(cls, kind: str) -> None:
        cls.kind = kind
        KINDS[kind] = cls

    @property
    def members(self) -> frozenset[str]:
        """The members of a sample that it reads; the picture alone, unless a subclass says otherwise."""
        return frozenset({"jpg"})

    @abstractmethod
    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Logits, float32 (N, A), of a batch whose `members` were read."""

    @property
    def network(self) -> AttributeNetwork | None:
        """The network that computes the logits from the picture alone; None if other members are read."""
        return None

    def configure(  # noqa: B027 (not abstract: only networks have a choice)
        self, device: torch.device, precision: Precision, mirrored: bool
    ) -> None:
        """Choose how networks compute from now on: where, in which precision, and whether the logits are
        the mean over a face and its mirror image. Other classifiers ignore it.
        """

    def require_network(self, path: Path, purpose: str) -> AttributeNetwork:
        """The `network`; without one, a UserError names the file and the `purpose` that needs it."""
        if self.network is None:
            raise UserError(
                f"{path}: {purpose} needs a network or a probe; name the classifier.pt that fine-tuning wrote"
            )
        return self.network

    def state(self) -> dict[str, Any]:
        """What the file holds beside the fields of `Classifier`: tensors, numbers, strings, containers."""
        values = {name: getattr(self, name) for name in own_fields(type(self))}
        return {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }

    @classmethod
    def from_state(cls, attributes: tuple[str, ...], state: Mapping[str, Any]) -> Self:
        """The classifier with a `state`.

        Raises:
            KeyError, RuntimeError, TypeError, ValueError: it is not that of this class.
        """
        arrays = {name: value.numpy() for name, value in state.items() if isinstance(value, Tensor)}
        return cls(attributes=attributes, **{**state, **arrays})

    @property
    def identity(self) -> str:
        """SHA-256 in hexadecimal of what the logits depend on: the same for a copy with other thresholds."""
        digest = hashlib.sha256()
        _update(digest, [self.kind, list(self.attributes), self.state()])
        return digest.hexdigest()


@dataclass(kw_only=True, eq=False)
class NetworkClassifier(Classifier, kind="network"):
    """A network that reads pictures."""

    model: AttributeNetwork  # the network; in evaluation mode

    def __post_init__(self) -> None:
        self.model.eval()
        self._device, self._mirrored = torch.device("cpu"), False
        self._precision: Precision = "float32"

    @property
    def network(self) -> AttributeNetwork:
        """The network."""
        return self.model

    def configure(self, device: torch.device, precision: Precision, mirrored: bool) -> None:
        """See `Classifier.configure`."""
        self._device, self._precision, self._mirrored = device, precision, mirrored
        self.model.to(device).to(memory_format=torch.channels_last)

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """See `Classifier.logits`."""
        return self.logits_of(to_input(batch.images.to(self._device), self.model.config.input_size)).numpy()

    @torch.inference_mode()
    def logits_of(self, inputs: Tensor) -> Tensor:
        """Logits, float32 (N, A) on the CPU, of normalised faces, float (N, 3, S, S)."""
        with autocast(self._device, self._precision):
            logits = self.model(inputs).float()
            if self._mirrored:
                logits = (logits + self.model(inputs.flip(-1)).float()) / 2
        return logits.cpu()

    def state(self) -> dict[str, Any]:
        """Weights, the settings of the network, and the groups."""
        weights = {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
        groups = {branch: list(names) for branch, names in self.model.listed.items()}
        return {"weights": weights, "network": self.model.config.model_dump(mode="json"), "groups": groups}

    @classmethod
    def from_state(cls, attributes: tuple[str, ...], state: Mapping[str, Any]) -> Self:
        """See `Classifier.from_state`."""
        model = AttributeNetwork(Network.model_validate(state["network"]), attributes, state["groups"])
        model.load_state_dict(state["weights"])
        return cls(attributes=attributes, model=model)


def own_fields(kind: type[Classifier]) -> list[str]:
    """The fields of a class that are the state in its files."""
    return [each.name for each in fields(kind) if each.name not in Classifier.__dataclass_fields__]


def save_classifier(path: Path, classifier: Classifier) -> None:
    """Write a classifier, atomically."""
    described = {each.name: getattr(classifier, each.name) for each in fields(Classifier)}
    described["attributes"] = list(classifier.attributes)
    checkpoint.save(path, {"kind": classifier.kind, **described, "state": classifier.state()})


def load_classifier(path: Path) -> Classifier:
    """Read a classifier of any kind, onto the CPU: ``classifier.pt``, or what ``training.export`` wrote.

    Raises:
        UserError: the file is missing or no classifier.
    """
    # The classes register themselves when they are imported, and need this module for that.
    from training.models import exported, probe  # noqa: F401

    if path.is_dir() or path.suffix == ".onnx":
        return exported.load_exported(path)
    content = checkpoint.load(path, made_by="python -m training.run --stage finetune")
    if str(content.get("kind")) not in KINDS:
        import_module("training.methods.runs")  # a method may bring its own class of classifiers
    try:
        kind = KINDS[content["kind"]]
        classifier = kind.from_state(tuple(content["attributes"]), content["state"])
        classifier.metadata, classifier.thresholds = content["metadata"], content["thresholds"]
        classifier.thresholds_from = content["thresholds_from"]
        classifier.left_out = content.get("left_out")
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        message = f"{path}: not a classifier of this version; fine-tune again ({error})"
        raise UserError(message[:300]) from error
    return classifier


def _update(digest: Any, value: Any) -> None:
    """Add a value of a state to a hash."""
    if isinstance(value, Mapping):
        value = [[key, value[key]] for key in sorted(value)]
    if isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        for each in value:
            _update(digest, each)
    elif isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    else:
        digest.update(repr(value).encode() + b"\n")


def sample_probabilities(
    classifier: Classifier, samples: Samples, stream: Stream, batch_size: int, title: str
) -> NDArray[np.float64]:
    """Probabilities, float64 (N, A), of one or more samples in their order; the progress bar has a `title`.

    Raises:
        UserError: the shards do not hold what the classifier reads.
    """
    require_members(samples, classifier.members)
    bar = progress(title, len(samples), "faces")
    logits = []
    for batch in load(samples, sequential_batches(samples, batch_size), classifier.members, 1, stream):
        logits.append(torch.from_numpy(classifier.logits(batch)))
        bar.update(len(batch.indices))
    bar.close()
    return torch.cat(logits).double().sigmoid().numpy()
