"""The tools of training: data, losses, schedule, loop, checkpoints."""
