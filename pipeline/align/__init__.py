"""Second stage: one aligned square face per usable input."""
