"""Classifiers for other runtimes, with a model card."""
