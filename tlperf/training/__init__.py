"""The training loop, its history and its best weights."""
