"""A teacher on a server: its protocols, connections and answers."""
