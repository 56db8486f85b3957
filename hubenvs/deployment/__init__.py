"""One deployment: its folder on this host, its existing resources, its ports, and the manifest wanted for it."""
