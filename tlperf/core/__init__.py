"""Units, errors, settings, result rows and durable files; no TensorFlow."""
