"""The machine: memory allocator, threads, device and precision (`process`), memory in use (`memory`), and what
this process may use of cores and memory, in a container too (`cgroup`).

`presets`, `storage`, `attacks` and the packages above may import it.
"""
