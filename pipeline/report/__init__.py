"""The data card: one self-contained page that shows what is in a set of shards."""
