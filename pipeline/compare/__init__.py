"""Compare two sets of the same faces: where do their parsers agree."""
