"""First stage: list the inputs, refuse what cannot be used, plan the shards."""
