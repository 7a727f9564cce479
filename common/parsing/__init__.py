"""Masks, confidences and features of aligned faces, by a pretrained parser: for shards, and for photos."""
