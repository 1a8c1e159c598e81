"""The command line: one file for each command. torch is imported only inside the commands that need it."""
