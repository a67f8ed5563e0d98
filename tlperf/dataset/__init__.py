"""Labelled images to verified shards and back; only the tfds metadata needs TensorFlow.

summary = write_dataset(DataConfig(source="photos"), Path("data"))   # shard.py
assert verify_dataset(Path("data"))["ok"]                            # verify.py
open_dataset(Path("data")).split("train").read([0, 7])               # store.py
"""
