"""The engines that `bench/cpu_engines.py` compares: one worker process each, one file a library."""
