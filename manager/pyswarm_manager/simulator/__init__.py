"""The simulator: the real decide functions on imagined nodes and services, in virtual time, from one seed."""
