"""Batch augmentations, run on the device with one random draw per sample. Add one: an nn.Module called with images."""
