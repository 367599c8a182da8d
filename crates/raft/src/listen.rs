//! Opens listening sockets. One that stands for every address of the host takes IPv6 and IPv4
//! alike, whatever the kernel's default is, and IPv4 alone where the host has no IPv6.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket};

const BACKLOG: u32 = 1024;

/// Whether the listening address stands for every address of the host.
pub fn is_any(host: &str) -> bool {
    matches!(host, "*" | "::" | "0.0.0.0")
}

/// Listens on a host name, an address, or every address (`*` or `::`; `0.0.0.0` is every IPv4
/// address).
///
/// # Errors
/// Those of the system.
pub async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    if !matches!(host, "*" | "::") {
        return TcpListener::bind((host, port)).await;
    }
    match dual_stack(port) {
        // No IPv6 in the kernel, or none switched on.
        Err(e) if e.raw_os_error().is_some_and(is_without_ipv6) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        listener => listener,
    }
}

fn is_without_ipv6(code: i32) -> bool {
    use nix::errno::Errno;
    [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL, Errno::EPROTONOSUPPORT]
        .contains(&Errno::from_raw(code))
}

fn dual_stack(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn every_address_is_reached() {
        for host in ["*", "::"] {
            let listener = listen(host, 0).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            // A container may have IPv6 and no such address.
            if listener.local_addr().unwrap().is_ipv6()
                && TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok()
            {
                TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.unwrap();
            }
        }
        let listener = listen("0.0.0.0", 0).await.unwrap();
        assert!(listener.local_addr().unwrap().is_ipv4());
        assert!(["*", "::", "0.0.0.0"].into_iter().all(is_any) && !is_any("::1"));
    }
}
