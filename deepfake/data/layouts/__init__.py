"""One module per layout on disk; each turns a folder into a manifest."""
