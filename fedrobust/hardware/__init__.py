"""The machine: memory allocator, threads, device and precision (`process`), memory in use (`memory`), and the limits of
a container (`cgroup`).

`presets`, `storage`, `attacks` and the packages above may import it.
"""
