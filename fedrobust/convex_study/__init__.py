"""`fedrobust convex`: samples, networks at several radii and the usual way, heads for trained networks."""
