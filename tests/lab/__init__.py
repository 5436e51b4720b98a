"""Real Kubernetes on this machine, for tests and for people: an API server alone, or a cluster of several nodes."""
