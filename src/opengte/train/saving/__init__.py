"""What a run writes: checkpoints to resume from, and finished models."""
