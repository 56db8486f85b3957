"""Pure functions from an Environment to what is to exist: images, seed files, keys, manifests, tokens."""
