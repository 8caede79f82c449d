# What `make worker` needs besides the checkout, which is mounted.
FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
RUN git config --system --add safe.directory '*'
