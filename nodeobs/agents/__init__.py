"""The service's view of the nodes: which agents there are, and how to speak to them."""
