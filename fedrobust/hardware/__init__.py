"""The machine: memory allocator, threads, device, precision, and the limits of a container."""
