-- wrk: a connection, and with TLS a handshake, for each request.
wrk.headers["Connection"] = "close"
