//! Binds a port, or says who may have it.

use std::net::{SocketAddr, TcpListener};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// A port cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody has it.
    #[error(
        "port {} is taken: another keyclasp, or another program, listens on {address}; stop it, or set {setting} to another address",
        address.port()
    )]
    Taken {
        /// What was to be bound.
        address: SocketAddr,
        /// Which setting says so.
        setting: &'static str,
    },
    /// This process may not, or the address is not one of this machine.
    #[error("cannot listen on {address}: {source}; {setting} says where")]
    Refused {
        /// What was to be bound.
        address: SocketAddr,
        /// Which setting says so.
        setting: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

/// Binds `address`, alone: the port is not shared with another process. `setting` is the name of
/// the setting that holds the address.
///
/// # Errors
/// When the port is taken, or the address is refused.
pub fn bind(address: SocketAddr, setting: &'static str) -> Result<TcpListener, BindError> {
    let listener = TcpListener::bind(address).map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => BindError::Taken { address, setting },
        _ => BindError::Refused { address, setting, source },
    })?;
    // The standard library's backlog is short for a service; listening again only makes it longer.
    // Where that fails, the short one serves.
    let _ = rustix::net::listen(&listener, BACKLOG);
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_refused_and_named() {
        let first = bind(([127, 0, 0, 1], 0).into(), "server.listen").unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address, "server.listen").unwrap_err().to_string();
        let start = format!("port {} is taken: another keyclasp", address.port());
        assert!(error.starts_with(&start) && error.contains("server.listen"), "{error}");
        drop(first);
        bind(address, "server.listen").expect("free again");
    }

    #[test]
    fn an_address_of_another_machine_is_refused_and_named() {
        // 192.0.2.0/24 is for documentation: no machine has it.
        let error = bind(([192, 0, 2, 1], 7413).into(), "server.ops_listen").unwrap_err().to_string();
        assert!(error.contains("192.0.2.1:7413") && error.contains("server.ops_listen"), "{error}");
    }
}
