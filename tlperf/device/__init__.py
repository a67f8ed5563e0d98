"""What computes: devices, strategy, precision and XLA policy, device facts."""
