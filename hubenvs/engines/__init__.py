"""The programs that do the work: running any program, podman, Git, and what this host needs."""
