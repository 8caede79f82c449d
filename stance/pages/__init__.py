"""HTML pages about one run and about several."""
