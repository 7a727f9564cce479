"""What training loops share: devices, seeds, optimiser, processes, checkpoints, averages, log, signals."""
