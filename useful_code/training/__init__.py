"""What every training run shares: flags, rows, means for the log, checkpoints, and the record that a run leaves."""
