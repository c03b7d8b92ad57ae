"""Files: whole or not at all, of bounded length, locked, and read without trusting them."""
