"""The offline half: from photos to WebDataset shards of aligned faces, masks and per-cell class counts."""
