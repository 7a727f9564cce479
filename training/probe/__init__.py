"""The baseline without training a network: logistic regression on what the shards hold already."""
