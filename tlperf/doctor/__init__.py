"""What this machine, this install, these data and these weights can do."""
