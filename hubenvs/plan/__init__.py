"""Pure functions that compute the images, seed files, keys, manifests and tokens of an Environment."""
