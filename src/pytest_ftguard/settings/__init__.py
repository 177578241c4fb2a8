"""What users set: in ini files, on the command line, in the environment and in markers."""
