"""Compare two sets of the same faces: how far their parsers agree."""
