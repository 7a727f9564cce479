"""The label-efficiency study: label shares x initialisations x seeds, one cell each."""
