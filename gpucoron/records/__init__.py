"""Records of reduced exposures that batches write and reports read: manifests, previews, headers of products."""
