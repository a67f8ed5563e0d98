"""What the study published, and the six backbones as one table; no TensorFlow."""
