"""Methods of search, one a file."""
