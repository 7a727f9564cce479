"""Stage 1: pre-training on pretext tasks, without labels."""
