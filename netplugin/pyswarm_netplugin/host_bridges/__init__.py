"""Networks of one node that the host is on: its own end of each, and what the host forwards, translates and refuses for them."""
