"""Files of a run: its folder, its checkpoint, and where its numbers come from."""
