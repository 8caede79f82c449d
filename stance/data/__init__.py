"""The files that stages exchange: their records, and the rules they follow."""
