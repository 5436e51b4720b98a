"""nodeobs: an alert in, merged profiles of every node's kubelet and container runtime out."""

__version__ = "0.1.0"
