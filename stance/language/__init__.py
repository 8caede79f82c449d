"""What words mean: the lexicon of the stance classifier, and the texts of pages in other languages."""
