"""From a picture to aligned faces: what the pipeline stores, and what prediction does to new photos."""
