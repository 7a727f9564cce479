"""Stage 2: attribute recognition from few labels."""
