"""The offline half: photos in, WebDataset shards of aligned faces, masks and part counts out."""
