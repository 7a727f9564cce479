"""The label-efficiency study: every method with every amount of labels, for several draws of all seeds."""
