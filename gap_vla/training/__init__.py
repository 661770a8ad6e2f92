"""Training: one loop, resumable to the bit. `octo.fine_tune` is the entry; `loop.train` is the loop."""
