"""Taking the service out of a cluster, so that what is kept there can be read and deleted without it."""
