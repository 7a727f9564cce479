"""The auxiliary tasks of stage 1; each file holds one task's labels, head and loss."""
