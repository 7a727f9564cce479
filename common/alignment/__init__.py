"""From an image to aligned faces, in the pipeline and for the photos that a classifier is given."""
