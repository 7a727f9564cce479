"""Attributes of raw photos."""

from training.predict.predictor import Predictor

__all__ = ["Predictor"]
