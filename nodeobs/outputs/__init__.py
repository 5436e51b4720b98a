"""What Runs leave behind: files, a manifest, and how long they are kept."""
