"""pprof profiles: wire format, merge, top. Knows nothing of Runs or nodes."""
