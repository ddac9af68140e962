"""Files as they may be found: what else stands in their place, whose they are, what their file system cannot do."""
