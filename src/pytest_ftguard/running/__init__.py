"""When and where trials run; nothing here imports torch, except the worker, in its own process."""
