"""The data card: one self-contained page about a set of shards."""
