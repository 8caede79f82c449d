"""This computer: files, memory, ports, processes, locks and git."""
