"""Files of a run: its folder, its checkpoint, and the provenance of its numbers.

`data`, `engines` and the packages above may import it.
"""
