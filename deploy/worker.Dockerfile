# What `make worker` needs besides the checkout, which is mounted; Triton compiles a kernel for 4-bit training.
FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends gcc git libc6-dev make && rm -rf /var/lib/apt/lists/*
RUN git config --system --add safe.directory '*'
