//! Connections that asked once and then stay silent, until standard input ends; then each must answer again.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;

use crate::handshakes::{client_config, handshaken};
use crate::{Failure, connect, exchange};

const HOST: &str = "localhost";

pub fn plain(address: SocketAddr, count: usize) -> Result<String, Failure> {
    held(count, || connect(address))
}

pub fn tls(address: SocketAddr, count: usize, authority: &Path) -> Result<String, Failure> {
    let config = client_config(authority)?;
    held(count, || handshaken(address, &config, HOST))
}

fn held<S: Read + Write>(
    count: usize,
    open: impl Fn() -> Result<S, Failure>,
) -> Result<String, Failure> {
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        let mut connection = open()?;
        exchange(&mut connection, HOST)?;
        connections.push(connection);
    }
    println!("{count} open");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for connection in &mut connections {
        exchange(connection, HOST)?;
    }
    Ok(format!("{count} answered again"))
}
