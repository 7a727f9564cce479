"""What training loops share: devices, seeds, optimiser, processes, checkpoints, records, log, signals."""
