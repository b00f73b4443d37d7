//! TLS settings towards servers: who is trusted, what we show.
