//! A proxy between a service and NATS, which a test can cut while everybody else stays connected.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The proxy. Whoever is cut off cannot connect again until it is mended.
pub struct Proxy {
    address: SocketAddr,
    cuts: watch::Sender<bool>,
}

impl Proxy {
    /// Starts one before the server at `nats://address:port`.
    pub async fn start(url: &str) -> Self {
        let to: SocketAddr = url
            .trim_start_matches("nats://")
            .parse()
            .expect("an address and a port");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let (cuts, cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cut.clone();
                tokio::spawn(async move {
                    if *cut.borrow_and_update() {
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(to).await else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Self { address, cuts }
    }

    /// Where to connect to.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.cuts.send_replace(true);
    }

    /// Lets through again.
    pub fn mend(&self) {
        self.cuts.send_replace(false);
    }
}
