"""The service beside its peers."""
