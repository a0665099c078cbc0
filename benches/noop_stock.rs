//! The no-op as everyone writes it: the multi-thread runtime with as many workers as there are
//! cores to use, the system's allocator, tonic's defaults. Only `TCP_NODELAY` is set, without which
//! one call in a thousand takes 40 ms.
//!
//! `noop_stock ADDRESS LENGTH`

use anyhow::Context as _;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

mod noop;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: noop_stock ADDRESS LENGTH";
    let address = args.next().context(usage)?.parse().context(usage)?;
    let len = args.next().context(usage)?.parse().context(usage)?;
    let incoming = TcpIncoming::bind(address)?.with_nodelay(Some(true));
    Server::builder().add_service(noop::service(len)).serve_with_incoming(incoming).await?;
    Ok(())
}
