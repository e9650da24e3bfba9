"""What every request meets first: the connection, the middleware, accounts."""
