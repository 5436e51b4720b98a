"""Where Runs and NodeObservabilities live: documents with a resourceVersion, changed optimistically and watched."""
