"""For the course assignment: the answer sheet as a PDF, and the total of a grading conversation."""
