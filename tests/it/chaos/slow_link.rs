//! A link to mongod that keeps back one write, and everything after it, until it is let go.
//!
//! What is on its way arrives though its sender is dead by then, as it may in any network.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Longest wait for the write, and for its answer.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Everything passes.
    Open,
    /// Everything passes but the next write that has these bytes.
    Waiting(Vec<u8>),
    /// Nothing passes.
    Keeping,
    /// Everything passes; the write has not been answered.
    LetGo,
    /// The write was answered.
    Answered,
}

/// The link. There is nothing in between for whoever does not use its address.
pub struct SlowLink {
    address: SocketAddr,
    stage: watch::Sender<Stage>,
}

impl SlowLink {
    /// Starts one to the mongod on this port.
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stage = watch::Sender::new(Stage::Open);
        let shared = stage.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else {
                    continue;
                };
                let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                let (answered, answers) = watch::channel(());
                tokio::spawn(back(from_far, to_near, answered));
                tokio::spawn(there(from_near, to_far, shared.clone(), answers));
            }
        });
        Self { address, stage }
    }

    /// Where a driver finds it; it asks no other member of the set.
    pub fn uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address)
    }

    /// Keeps back the next update of documents of a collection.
    pub fn keep_next_write(&self, collection: &str) {
        let mut command = b"\x02update\0".to_vec();
        command.extend(u32::try_from(collection.len() + 1).unwrap().to_le_bytes());
        command.extend(collection.as_bytes());
        command.push(0);
        self.stage.send_replace(Stage::Waiting(command));
    }

    /// Waits until it keeps back a write.
    pub async fn kept(&self) {
        self.reached(&Stage::Keeping).await;
    }

    /// Lets everything pass, and waits until mongod has answered the write.
    pub async fn let_go(&self) {
        self.stage.send_replace(Stage::LetGo);
        self.reached(&Stage::Answered).await;
    }

    async fn reached(&self, wanted: &Stage) {
        let mut stage = self.stage.subscribe();
        let reached = tokio::time::timeout(PATIENCE, stage.wait_for(|stage| stage == wanted)).await;
        reached
            .unwrap_or_else(|_| panic!("{wanted:?} was not reached within {PATIENCE:?}"))
            .unwrap();
    }
}

async fn there(
    mut near: OwnedReadHalf,
    mut far: OwnedWriteHalf,
    stage: watch::Sender<Stage>,
    mut answers: watch::Receiver<()>,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = near.read(&mut bytes).await {
        let bytes = &bytes[..count];
        let keeps = stage.send_if_modified(|stage| {
            let is_it =
                matches!(stage, Stage::Waiting(wanted) if bytes.windows(wanted.len()).any(|part| part == wanted));
            if is_it {
                *stage = Stage::Keeping;
            }
            is_it
        });
        let passes = stage
            .subscribe()
            .wait_for(|stage| *stage != Stage::Keeping)
            .await
            .is_ok();
        answers.mark_unchanged();
        if !passes || far.write_all(bytes).await.is_err() {
            return;
        }
        if keeps && answers.changed().await.is_ok() {
            stage.send_replace(Stage::Answered);
        }
    }
}

async fn back(mut far: OwnedReadHalf, mut near: OwnedWriteHalf, answered: watch::Sender<()>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = far.read(&mut bytes).await {
        // Nobody may be there to hear it.
        let _ = near.write_all(&bytes[..count]).await;
        answered.send_replace(());
    }
}
