"""Ways to get a classifier from few labels: one module per method, and what runs them."""
