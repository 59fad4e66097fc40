//! Who handles a basket, at the moment at which two people want it.

use ezout::core::id::BasketId;
use ezout::views::{Handling, ViewError, Views};
use mongodb::bson::{Document, doc};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::support::{Stack, session};

/// A way to MongoDB on which the question who handles a basket waits until it is let through.
struct Gate {
    uri: String,
    /// One word for each question that waits.
    waiting: mpsc::Receiver<()>,
    through: mpsc::Sender<()>,
}

impl Gate {
    async fn start(stack: &Stack) -> Self {
        let uri = stack.views_config().uri;
        let to = uri
            .trim_start_matches("mongodb://")
            .split('/')
            .next()
            .unwrap()
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("mongodb://{}/?directConnection=true", listener.local_addr().unwrap());
        let (told, waiting) = mpsc::channel(1);
        let (through, passes) = mpsc::channel(1);
        let passes = std::sync::Arc::new(tokio::sync::Mutex::new(passes));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&to).await.unwrap();
                let ((mut asks, mut answered), (mut answers, mut asked)) = (near.into_split(), far.into_split());
                tokio::spawn(async move { tokio::io::copy(&mut answers, &mut answered).await });
                let (told, passes) = (told.clone(), passes.clone());
                tokio::spawn(async move {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(length @ 1..) = asks.read(&mut buffer).await {
                        let part = &buffer[..length];
                        let has = |text: &[u8]| part.windows(text.len()).any(|window| window == text);
                        if has(b"\x02find\0") && has(b"handlings\0") {
                            let _ = told.send(()).await;
                            passes.lock().await.recv().await;
                        }
                        if asked.write_all(part).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { uri, waiting, through }
    }
}

async fn views(stack: &Stack, uri: Option<&str>) -> (Views, DropGuard) {
    let (mut config, stop) = (stack.views_config(), CancellationToken::new());
    if let Some(uri) = uri {
        uri.clone_into(&mut config.uri);
    }
    let views = Views::start(&config, &TaskTracker::new(), stop.clone()).await.unwrap();
    (views, stop.drop_guard())
}

fn handling(by: &str) -> Handling {
    Handling::from_now(by.to_owned(), 10, OffsetDateTime::now_utc())
}

fn basket(shop: &str) -> BasketId {
    BasketId::parse(&format!("{shop}.{}", session())).unwrap()
}

#[tokio::test]
async fn who_finds_a_basket_free_after_all_has_it() {
    let stack = Stack::start().await;
    let mut gate = Gate::start(&stack).await;
    let (mias, _mia) = views(&stack, None).await;
    let (sams, _sam) = views(&stack, Some(&gate.uri)).await;
    let id = basket(&session());
    let now = OffsetDateTime::now_utc();
    let mia = handling("Mia");
    assert_eq!(mias.handle(id, &mia, false, now).await.unwrap(), None);

    // Sam is refused, and Mia lets go before he can see whose it is.
    let sam = handling("Sam");
    let wish = sam.clone();
    let wanting = tokio::spawn(async move { sams.handle(id, &wish, false, now).await });
    gate.waiting.recv().await.unwrap();
    assert_eq!(mias.release_handling(id, "Mia").await.unwrap(), None);
    gate.through.send(()).await.unwrap();
    assert_eq!(wanting.await.unwrap().unwrap(), None);
    assert_eq!(mias.handlings(id.shop).await.unwrap(), [(id.session, sam.clone())]);

    // The slower one is told whose it is, as ever.
    assert_eq!(mias.handle(id, &mia, false, now).await.unwrap(), Some(sam));
}

#[tokio::test]
async fn who_never_gets_a_basket_nor_sees_who_has_it_is_told_so() {
    let stack = Stack::start().await;
    let (views, _stop) = views(&stack, None).await;
    // A rule of the database that is none of ours refuses the second basket of a shop, though nobody handles it.
    let one_each = doc! {
        "createIndexes": "handlings",
        "indexes": [{ "key": { "shop_id": 1, "nothing": 1 }, "name": "one_each", "unique": true }],
    };
    stack.database().await.run_command(one_each).await.unwrap();
    let shop = session();
    let (first, second) = (basket(&shop), basket(&shop));
    let now = OffsetDateTime::now_utc();
    assert_eq!(views.handle(first, &handling("Mia"), false, now).await.unwrap(), None);
    let refused = views.handle(second, &handling("Sam"), false, now).await;
    assert!(matches!(refused, Err(ViewError::Refused { .. })), "{refused:?}");
    let left = stack.database().await.collection::<Document>("handlings");
    assert_eq!(left.count_documents(doc! {}).await.unwrap(), 1);
}
