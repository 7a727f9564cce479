"""Samples of finished shards: which there are, in which order they are read, and the reading."""
