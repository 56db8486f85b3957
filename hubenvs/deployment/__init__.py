"""One deployment: its folder on this host, its existing resources, its ports, and its desired manifest."""
