"""Any number of samples in bounded memory: what is given for them, the files they go to, and going on after a stop."""
