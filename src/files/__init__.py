"""Files: atomic writes, bounded reads, locks, run folders, and untrusted pickles."""
