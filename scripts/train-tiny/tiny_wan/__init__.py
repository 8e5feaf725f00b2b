"""Trains the small Wan 2.2 TI2V checkpoint that the repository ships."""
