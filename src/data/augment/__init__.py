"""Augmentations of a whole batch on its device, each sample drawn on its own. Add one: an nn.Module of images alone."""
