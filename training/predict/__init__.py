"""Attributes of raw photos."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.predict.predictor import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    """`Predictor`, whose imports the help of the command need not wait for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from training.predict.predictor import Predictor

    return Predictor
