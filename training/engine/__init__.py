"""What every training loop needs: optimiser, ranks, checkpoints, averages, log, signals."""
