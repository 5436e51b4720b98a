"""The only package that talks to the API server. Imports nothing by itself: the agent takes one small module of it."""
