"""Scores of classifiers on the test split, with thresholds from val."""
