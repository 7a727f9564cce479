"""Third stage: masks and per-cell class counts by the pretrained parser, written into finished shards."""
