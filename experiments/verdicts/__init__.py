"""Claims of the literature: files, data, verdicts and their page."""
