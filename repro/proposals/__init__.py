"""Where objects may be: proposals that need no training, made on the host before a detector sees the image."""
