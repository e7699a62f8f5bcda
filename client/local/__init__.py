"""The way to the node of this host: its Unix socket. The records are kernel/local's."""
