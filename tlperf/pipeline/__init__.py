"""The host half of input: read, decode, resize, order, batch, prefetch."""
