"""First stage: list the inputs, refuse those that cannot be used, plan the shards."""
