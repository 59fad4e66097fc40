//! Hostile bodies, and floods of HTTP/2 frames, while somebody honest goes on sending.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezout::core::policy::Role;
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::JoinHandle;

use super::guarded::{Asker, Guarded};
use super::hostile::no_panic_in;
use crate::support::{Service, event, session};

/// How much more memory the process may have at any moment. Far beyond what it takes, and far below what is sent.
const MEMORY_MAX: u64 = 192 * 1024 * 1024;
/// Longest wait for an answer or an end. A slow body is given up after some seconds.
const PATIENCE: Duration = Duration::from_mins(2);

/// A body in chunks.
const CHUNKED: &str = "transfer-encoding: chunked\r\n";

/// What the process has in memory, in bytes.
fn memory(service: &Service) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}

/// Somebody who sends an event after the other, and of whom each is taken.
struct Honest {
    guarded: &'static Guarded,
    shop: String,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    sends: JoinHandle<u64>,
}

impl Honest {
    fn begin(guarded: &'static Guarded) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let shop = session();
        let phone = guarded.caller(Some(guarded.token(Role::Service, &[&shop])));
        let looks = guarded.caller(Some(guarded.token(Role::Merchant, &[&shop])));
        let sent_to = shop.clone();
        let sends = tokio::spawn(async move {
            let (visit, mut most) = (session(), 0);
            for action_id in 1.. {
                let added = event(&shop, &visit, action_id, "ADD", 1, 1.5, 1.5);
                let got = phone.publish(&shop, &added).await;
                assert_eq!(got.status, 200, "somebody honest was refused: {got:?}");
                let got = looks.get(&format!("/v1/shops/{shop}/summary")).await;
                assert_eq!(got.status, 200, "somebody honest was refused: {got:?}");
                counted.fetch_add(1, Ordering::Relaxed);
                most = most.max(memory(&guarded.service));
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            most
        });
        Self {
            guarded,
            shop: sent_to,
            stop,
            sent,
            sends,
        }
    }

    /// Returns when one more was sent than by now: what was done to the service until now did not end it.
    async fn goes_on(&self) {
        let now = self.sent.load(Ordering::Relaxed);
        while self.sent.load(Ordering::Relaxed) <= now {
            assert!(!self.sends.is_finished(), "somebody honest was refused");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many were sent, each of which is in the journal, and the most memory that the process had meanwhile.
    async fn end(self) -> (usize, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let most = self.sends.await.unwrap();
        let sent = self.sent.load(Ordering::Relaxed);
        assert_eq!(self.guarded.journal_of(&self.shop).await.len(), sent);
        (sent, most)
    }
}

fn address(service: &Service) -> String {
    service.http_url().trim_start_matches("http://").to_owned()
}

/// Sends bytes as they are and nothing more, and answers the status and the code of what came back; nothing where the
/// connection was ended without an answer.
async fn raw(service: &Service, bytes: &[u8]) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address(service)).await.unwrap();
    let (mut reads, mut writes) = stream.split();
    // Whoever is answered early may not be read to the end.
    let sending = async {
        let _ = writes.write_all(bytes).await;
    };
    let reading = async {
        let mut answer = Vec::new();
        let _ = reads.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let both = tokio::time::timeout(PATIENCE, async { tokio::join!(sending, reading).1 });
    let answer = both.await.expect("an answer or an end");
    let status = answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let code = answer
        .split_once("\"code\":\"")
        .and_then(|(_, rest)| rest.split_once('"'));
    Some((status, code.map_or(String::new(), |(code, _)| code.to_owned())))
}

/// A request with these headers and this body.
fn request(path: &str, token: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// An event in which a field has a value that no JSON library of ours writes.
fn with(shop: &str, field: &str, value: &str) -> Vec<u8> {
    let mut sent = event(shop, &session(), 1, "ADD", 1, 1.5, 1.5);
    sent.as_object_mut().unwrap().remove(field);
    let rest = sent.to_string();
    format!("{{\"{field}\":{value},{}", &rest[1..]).into_bytes()
}

/// What a request is called, its bytes, and the statuses of which it is answered with one; nothing stands for an end without
/// an answer.
type Hostile = (&'static str, Vec<u8>, &'static [Option<u16>]);

/// An event with something in it that no event has, and the code of its refusal.
fn fields(shop: &str) -> Vec<(String, Vec<u8>, &'static str)> {
    let deep = "[".repeat(7_000) + &"]".repeat(7_000);
    let deep_object = "{\"a\":".repeat(2_000) + "1" + &"}".repeat(2_000);
    let (digits, exponent) = ("9".repeat(5_000), "1e".to_owned() + &"9".repeat(5_000));
    let again = format!("shop_id\":\"{shop}\",\"shop_id");
    let rows = [
        ("product_name", "\"\\ud800\"", "invalid_event"),
        ("product_name", deep.as_str(), "invalid_event"),
        ("product_name", &deep_object, "invalid_event"),
        (&again, "\"x\"", "not_an_object"),
        ("product_price", "NaN", "not_an_object"),
        ("product_price", "-Infinity", "not_an_object"),
        ("product_price", "1e400", "invalid_event"),
        ("product_price", &digits, "invalid_event"),
        ("product_price", &exponent, "invalid_event"),
        ("product_price", "-0.1", "invalid_event"),
        ("product_id", "9223372036854775808", "invalid_event"),
        ("product_id", "0.1", "invalid_event"),
    ];
    let event_with = |(field, value, code): (&str, &str, &'static str)| {
        let what = format!("{field}: {}", &value[..value.len().min(20)]);
        (what, with(shop, field, value), code)
    };
    let mut all: Vec<_> = rows.into_iter().map(event_with).collect();
    let good = event(shop, &session(), 1, "ADD", 1, 1.5, 1.5).to_string();
    let no_text: Vec<u8> = good
        .bytes()
        .map(|byte| if byte == b'p' { 0xff } else { byte })
        .collect();
    let cut_off = good.as_bytes()[..good.len() / 2].to_vec();
    for (what, body) in [
        ("cut off", cut_off),
        ("no UTF-8", no_text),
        ("nothing", Vec::new()),
        ("deep", deep.into_bytes()),
    ] {
        all.push((what.to_owned(), body, "not_an_object"));
    }
    all.push(("1 MB".to_owned(), vec![b' '; 1_000_000], "body_too_large"));
    all
}

/// What is said of how long a body is.
fn lengths(path: &str, token: &str) -> Vec<Hostile> {
    const REFUSED: &[Option<u16>] = &[Some(400), None];
    const SLOW: &[Option<u16>] = &[Some(408)];
    let twice = "2\r\ncontent-length: 3";
    let rows: [(_, _, &[u8], _); 6] = [
        ("1 GB announced", "1000000000", b"{", &[Some(413)][..]),
        ("2^64 announced", "18446744073709551616", b"{", REFUSED),
        ("-1 announced", "-1", b"{}", REFUSED),
        ("two lengths", twice, b"{} ", REFUSED),
        ("more announced than sent", "500", b"{}", SLOW),
        ("less announced than sent", "2", b"{}{}{}", &[Some(422)]),
    ];
    let announced = rows.map(|(what, length, body, wanted)| {
        let bytes = request(path, token, &format!("content-length: {length}\r\n"), body);
        (what, bytes, wanted)
    });
    let many = [&b"1\r\n \r\n".repeat(200_000)[..], b"0\r\n\r\n"].concat();
    let extended = [b"2;", &vec![b'a'; 1_000_000][..], b"\r\n{}\r\n0\r\n\r\n"].concat();
    let rows: [(_, &[u8], _); 8] = [
        ("chunks without an end", b"2\r\n{}\r\n", SLOW),
        ("a chunk of no number", b"zz\r\n{}\r\n0\r\n\r\n", REFUSED),
        ("a chunk below 0", b"-1\r\n{}\r\n0\r\n\r\n", REFUSED),
        ("a chunk of 2^64", b"ffffffffffffffffff\r\n{}", REFUSED),
        (
            "a chunk of 2^63",
            b"7fffffffffffffff\r\n{}",
            &[Some(400), Some(408), Some(413), None],
        ),
        ("a chunk longer than it says", b"2\r\n{}{}\r\n0\r\n\r\n", REFUSED),
        ("chunks of one byte each", &many, &[Some(413), None]),
        ("a chunk with 1 MB of extensions", &extended, REFUSED),
    ];
    let chunks = rows.map(|(what, body, wanted)| (what, request(path, token, CHUNKED, body), wanted));
    announced.into_iter().chain(chunks).collect()
}

/// What else is said of a body, or instead of one.
fn heads(path: &str, token: &str) -> Vec<Hostile> {
    const REFUSED: &[Option<u16>] = &[Some(400), None];
    let both = format!("content-length: 4\r\n{CHUNKED}");
    let packed = "content-encoding: gzip\r\ncontent-length: 20\r\n";
    let bomb = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &[0; 10]].concat();
    let with = |headers: &str, body: &[u8]| request(path, token, headers, body);
    let large = "b".repeat(1_000_000);
    let none = "transfer-encoding: gzip\r\n";
    vec![
        ("packed", with(packed, &bomb), &[Some(415)]),
        (
            "an encoding that is none",
            with(none, b"{}"),
            &[Some(400), Some(501), None],
        ),
        (
            "a length beside chunks",
            with(&both, b"0\r\n\r\n"),
            &[Some(400), Some(422), None],
        ),
        ("200 headers", with(&"a: b\r\n".repeat(200), b""), &[Some(431)]),
        (
            "a header of 1 MB",
            with(&format!("a: {large}\r\n"), b""),
            &[Some(431), None],
        ),
        (
            "a path of 1 MB",
            request(&format!("/{large}"), token, "", b""),
            &[Some(414), Some(431), None],
        ),
        ("no HTTP", b"\0\x01\x02 HELO\r\n\r\n".to_vec(), REFUSED),
    ]
}

/// A body that comes byte by byte and does not end: whether it was given up.
async fn drip(service: &Service, path: &str, token: &str) -> bool {
    let mut stream = TcpStream::connect(address(service)).await.unwrap();
    stream.write_all(&request(path, token, CHUNKED, b"")).await.unwrap();
    let (mut reads, mut writes) = stream.into_split();
    let dripping = tokio::spawn(async move {
        while writes.write_all(b"1\r\n \r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut answer = vec![0; 64];
    let length = tokio::time::timeout(PATIENCE, reads.read(&mut answer)).await;
    dripping.abort();
    let length = length.expect("an answer or an end").unwrap_or_default();
    String::from_utf8_lossy(&answer[..length]).starts_with("HTTP/1.1 408")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_body_is_refused_with_its_code_and_nobody_else_notices() {
    const DRIPS: usize = 50;
    let guarded = Guarded::shared().await;
    let service = &guarded.service;
    let shop = session();
    let token = guarded.token(Role::Service, &[&shop]);
    let begun = memory(service);
    let honest = Honest::begin(guarded);
    let publish = format!("/publish/{shop}");
    let mut wrong = Vec::new();
    let fields = fields(&shop);
    for (what, body, wanted) in &fields {
        let headers = format!("content-length: {}\r\n", body.len());
        let got = raw(service, &request(&publish, &token, &headers, body)).await;
        if got.as_ref().is_none_or(|(_, code)| code != wanted) {
            wrong.push(format!("{what}: {got:?} and not {wanted}"));
        }
    }
    let mut requests = lengths(&publish, &token);
    requests.extend(heads(&publish, &token));
    for (what, bytes, wanted) in &requests {
        let got = raw(service, bytes).await.map(|(status, _)| status);
        if !wanted.contains(&got) {
            wrong.push(format!("{what}: {got:?} and not one of {wanted:?}"));
        }
    }
    let slow = join_all((0..DRIPS).map(|_| drip(service, &publish, &token))).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(slow.iter().all(|refused| *refused), "a slow body was not given up");
    honest.goes_on().await;
    let (sent, most) = honest.end().await;
    assert!(most < begun + MEMORY_MAX, "{most} bytes, and {begun} before");
    let recorded = guarded.journal_of(&shop).await;
    assert!(recorded.is_empty(), "something hostile was recorded: {recorded:?}");
    no_panic_in(&service.log);
    let count = fields.len() + requests.len() + DRIPS;
    eprintln!("{count} hostile bodies beside {sent} honest events; memory {begun} to {most} at most");
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `GET http://test/` (RFC 7541: entries 2, 6 and 4 of the static table, and an authority).
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 4, b't', b'e', b's', b't'];
/// How much one connection sends at most of frames that cost the service little before it has enough of them.
const FLOOD: usize = 64 * 1024 * 1024;
/// And of frames of which each may be a request.
const REQUESTS: usize = 128 * 1024;
/// Connections of each kind.
const FLOODS: usize = 8;

/// What became of a flood.
#[derive(Debug, Default)]
struct Flooded {
    sent: usize,
    /// The server said that it is over, or ended the connection.
    is_ended: bool,
    /// It took nothing more for a while.
    is_stuck: bool,
    /// Streams that were begun, and those of them that were answered or refused.
    begun: usize,
    settled: usize,
}

impl Flooded {
    /// Whether it was cut off.
    fn is_cut(&self) -> bool {
        self.is_ended || self.is_stuck
    }

    /// Whether it was cut off, or each of its requests was answered or refused.
    fn is_dealt_with(&self) -> bool {
        self.is_cut() || (self.begun > 0 && self.settled == self.begun)
    }
}

/// What the server has sent on a connection.
#[derive(Debug, Default)]
struct Answered {
    is_ended: AtomicBool,
    streams: Mutex<BTreeSet<u32>>,
}

impl Answered {
    /// Takes frames until the end.
    async fn take(&self, mut read: OwnedReadHalf) {
        let mut head = [0; 9];
        while read.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            if matches!(head[3], HEADERS | RST_STREAM) {
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                self.streams.lock().unwrap().insert(stream);
            }
            let mut payload = (&mut read).take(length.into());
            if head[3] == GOAWAY || tokio::io::copy(&mut payload, &mut tokio::io::sink()).await.is_err() {
                break;
            }
        }
        self.is_ended.store(true, Ordering::Relaxed);
    }

    fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Relaxed)
    }

    fn settled(&self) -> usize {
        self.streams.lock().unwrap().len()
    }
}

/// Sends frames until the server has enough of it, or all are sent.
async fn flood(service: &Service, most: usize, reads: bool, mut next: impl FnMut(u32) -> Vec<u8>) -> Flooded {
    let mut stream = TcpStream::connect(address(service)).await.unwrap();
    stream
        .write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())
        .await
        .unwrap();
    let (read, mut write) = stream.into_split();
    let answered = Arc::new(Answered::default());
    let reading = {
        let answered = Arc::clone(&answered);
        tokio::spawn(async move {
            if reads {
                answered.take(read).await;
            } else {
                let _kept = read;
                std::future::pending::<()>().await;
            }
        })
    };
    let mut flooded = Flooded::default();
    for turn in 0.. {
        let bytes = next(turn);
        match tokio::time::timeout(Duration::from_secs(3), write.write_all(&bytes)).await {
            Ok(Ok(())) => {
                flooded.sent += bytes.len();
                flooded.begun += begins(&bytes);
            }
            Ok(Err(_)) => answered.is_ended.store(true, Ordering::Relaxed),
            Err(_) => flooded.is_stuck = true,
        }
        if answered.is_ended() || flooded.is_stuck || flooded.sent >= most {
            break;
        }
    }
    flooded.is_ended = answered.is_ended();
    flooded.settled = answered.settled();
    // What was begun is still to be answered.
    let begun = tokio::time::Instant::now();
    while reads && !flooded.is_dealt_with() && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(10)).await;
        flooded.is_ended = answered.is_ended();
        flooded.settled = answered.settled();
    }
    reading.abort();
    flooded
}

/// How many streams are begun by these frames, of which the first tells: one by a whole head, none by anything else.
fn begins(frames: &[u8]) -> usize {
    usize::from(frames[3] == HEADERS && frames[4] & END_HEADERS != 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_frames_is_cut_off_and_nobody_else_notices() {
    let guarded = Guarded::shared().await;
    let service = &guarded.service;
    // It speaks HTTP/2 with whoever asks in order.
    let mut stream = TcpStream::connect(address(service)).await.unwrap();
    let asked = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, END_STREAM | END_HEADERS, 1, GET),
    ]
    .concat();
    stream.write_all(&asked).await.unwrap();
    let mut page = Vec::new();
    while !String::from_utf8_lossy(&page).contains("</html>") {
        assert!(stream.read_buf(&mut page).await.unwrap() > 0, "the page did not come");
    }
    drop(stream);

    let begun = memory(service);
    let honest = Honest::begin(guarded);
    let id = |turn: u32| 2 * turn + 1;
    let opened_and_reset = |turn: u32| {
        let opened = frame(HEADERS, END_STREAM | END_HEADERS, id(turn), GET);
        [opened, frame(RST_STREAM, 0, id(turn), &8_u32.to_be_bytes())].concat()
    };
    let resets = join_all((0..FLOODS).map(|_| flood(service, REQUESTS, true, opened_and_reset))).await;
    honest.goes_on().await;
    // Streams that are opened and left open.
    let opened = |turn: u32| frame(HEADERS, END_HEADERS, id(turn), GET);
    let opens = join_all((0..FLOODS).map(|_| flood(service, REQUESTS, true, opened))).await;
    honest.goes_on().await;
    // A head without an end.
    let part = vec![0; 16 * 1024];
    let endless = |turn: u32| match turn {
        0 => frame(HEADERS, 0, 1, GET),
        _ => frame(CONTINUATION, 0, 1, &part),
    };
    let continuations = join_all((0..FLOODS).map(|_| flood(service, FLOOD, true, endless))).await;
    let empty = |turn: u32| match turn {
        0 => frame(HEADERS, 0, 1, GET),
        _ => frame(CONTINUATION, 0, 1, &[]).repeat(100),
    };
    let nothings = join_all((0..FLOODS).map(|_| flood(service, FLOOD, true, empty))).await;
    honest.goes_on().await;
    // What has to be answered, by somebody who does not read the answers.
    let settings = |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(100);
    let settings = join_all((0..FLOODS).map(|_| flood(service, FLOOD, false, settings))).await;
    let pings = |_| frame(PING, 0, 0, &[7; 8]).repeat(100);
    let pings = join_all((0..FLOODS).map(|_| flood(service, FLOOD, false, pings))).await;
    honest.goes_on().await;
    // Bodies of nothing, without an end.
    let nothing = |turn: u32| match turn {
        0 => frame(HEADERS, END_HEADERS, 1, &[&[0x83], &GET[1..]].concat()),
        _ => frame(DATA, 0, 1, &[]).repeat(100),
    };
    let bodies = join_all((0..FLOODS).map(|_| flood(service, 8 * REQUESTS, true, nothing))).await;
    honest.goes_on().await;
    let (sent, most) = honest.end().await;

    let floods = [
        ("streams reset", &resets, false),
        ("streams left open", &opens, false),
        ("continuations", &continuations, true),
        ("empty continuations", &nothings, true),
        ("settings", &settings, true),
        ("pings", &pings, true),
        ("empty bodies", &bodies, false),
    ];
    for (what, flooded, is_cut_off) in floods {
        let cut = flooded.iter().filter(|flooded| flooded.is_cut()).count();
        let dealt_with = flooded.iter().filter(|flooded| flooded.is_dealt_with()).count();
        let bytes: usize = flooded.iter().map(|flooded| flooded.sent).sum();
        eprintln!(
            "{what}: {cut} of {} cut off after {bytes} bytes together, and all requests settled of {} others",
            flooded.len(),
            dealt_with - cut
        );
        let fine = if is_cut_off { cut } else { dealt_with };
        assert_eq!(fine, flooded.len(), "{what}: {flooded:?}");
    }
    assert!(most < begun + MEMORY_MAX, "{most} bytes, and {begun} before");
    no_panic_in(&service.log);
    eprintln!("beside {sent} honest events; memory {begun} to {most} at most");
    // And the floods have left nothing behind that would keep others waiting.
    let caller: Asker = guarded.caller(None);
    assert_eq!(caller.get("/").await.status, 200);
}
