"""The machine: memory allocator, threads, device, precision and the limits of a container (`process`), memory in use
(`memory`).

`presets`, `storage`, `attacks` and the packages above may import it.
"""
