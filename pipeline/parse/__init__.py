"""Third stage: masks and part counts by the pretrained parser, written into finished shards."""
