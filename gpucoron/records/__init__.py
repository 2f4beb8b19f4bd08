"""What a batch writes and a report reads: manifests, previews, headers of products."""
