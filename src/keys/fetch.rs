//! Fetching one document from an issuer, trusting as little of it as can be.
//!
//! One GET on a connection of its own: https (certificates of the public authorities), or http on this machine; no
//! redirect is followed, and bytes and time are limited. Not the HTTP client of the other parts: that one is built
//! without TLS, since with TLS it does not start on a machine that has no certificates installed.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AGE, CACHE_CONTROL, HOST, HeaderMap, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Longest document. Google's is below 4 KiB.
pub(super) const BYTES_MAX: usize = 256 * 1024;
/// Longest time for all of one document.
pub(super) const TIME_MAX: Duration = Duration::from_secs(10);
/// Longest time for a connection to one of a server's addresses. The next one has its turn then.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// For how long a document is taken to be good, whatever its server says.
const LASTS_MIN: Duration = Duration::from_mins(1);
const LASTS_MAX: Duration = Duration::from_hours(24);
/// The same where its server says nothing.
const LASTS_OTHERWISE: Duration = Duration::from_mins(10);
/// Most headers of an answer, and bytes that are read ahead.
const HEADERS_MAX: usize = 64;
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Where a document is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    secure: bool,
    host: String,
    port: u16,
    /// As it is sent in the header `Host`.
    authority: String,
    path: String,
}

/// A document, and for how long its server says that it is good, within our limits.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) bytes: Vec<u8>,
    pub(super) lasts: Duration,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// No connection, none that can be trusted, or one that broke.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("did not answer in time")]
    TimedOut,
    /// An answer that is none. Redirects are among them: where keys come from is decided here.
    #[error("answered {0}")]
    Status(StatusCode),
    /// More bytes than any issuer needs.
    #[error("answered more than {BYTES_MAX} bytes")]
    TooLarge,
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// The rule that it breaks, to be put behind the name of an option.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text
            .parse()
            .map_err(|_| "must be an address such as https://issuer.example/keys")?;
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or("must be an address such as https://issuer.example/keys")?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let here = bare.eq_ignore_ascii_case("localhost")
            || bare
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if here => false,
            _ => return Err("must begin with https://; http:// only leads to this machine itself"),
        };
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err("must have no user and no password in it");
        }
        Ok(Self {
            secure,
            host: bare.to_owned(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    async fn connect(&self) -> Result<TcpStream, FetchError> {
        let mut failed = FetchError::Unreachable("its name has no address".to_owned());
        for address in lookup_host((&*self.host, self.port)).await.map_err(unreachable)? {
            if !self.secure && !address.ip().is_loopback() {
                continue;
            }
            match timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = unreachable(error),
                Err(_) => failed = FetchError::TimedOut,
            }
        }
        Err(failed)
    }

    /// The origin, as a browser knows it.
    pub(super) fn origin(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }

    /// The server, for the log. The rest of an address may be a secret.
    pub(super) fn server(&self) -> &str {
        &self.authority
    }
}

/// Fetches documents.
#[derive(Debug, Clone)]
pub(super) struct Client {
    tls: Arc<ClientConfig>,
}

impl Client {
    pub(super) fn new() -> Self {
        let roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        // The provider is named: which one the process has by default is of no matter here.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the usual versions of TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { tls: Arc::new(tls) }
    }

    /// Fetches a document.
    pub(super) async fn get(&self, address: &Address) -> Result<Document, FetchError> {
        timeout(TIME_MAX, self.connect(address))
            .await
            .unwrap_or(Err(FetchError::TimedOut))
    }

    async fn connect(&self, address: &Address) -> Result<Document, FetchError> {
        let stream = address.connect().await?;
        if !address.secure {
            return ask(stream, address).await;
        }
        let name = ServerName::try_from(address.host.clone()).map_err(unreachable)?;
        let connecting = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream);
        ask(connecting.await.map_err(unreachable)?, address).await
    }
}

fn unreachable(error: impl std::fmt::Display) -> FetchError {
    FetchError::Unreachable(error.to_string())
}

async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin, address: &Address) -> Result<Document, FetchError> {
    let request = Request::get(&address.path)
        .header(HOST, &address.authority)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("ezout/", env!("CARGO_PKG_VERSION")))
        .body(String::new())
        .map_err(unreachable)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(unreachable)?;
    let mut answering = pin!(async move { read(sender.send_request(request).await.map_err(unreachable)?).await });
    let mut connection = pin!(connection);
    // The connection ends before what it brought is read, or after it.
    let mut connected = true;
    loop {
        tokio::select! {
            answer = &mut answering => return answer,
            _ = &mut connection, if connected => connected = false,
        }
    }
}

async fn read(answer: Response<Incoming>) -> Result<Document, FetchError> {
    if answer.status() != StatusCode::OK {
        return Err(FetchError::Status(answer.status()));
    }
    let lasts = lasts(answer.headers());
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame.map_err(unreachable)?.into_data() {
            if bytes.len() + data.len() > BYTES_MAX {
                return Err(FetchError::TooLarge);
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(Document { bytes, lasts })
}

/// For how long an answer is good: `max-age`, less what it has already spent in caches.
fn lasts(headers: &HeaderMap) -> Duration {
    let seconds = |text: &str| text.trim().trim_matches('"').parse::<u64>().ok();
    let directives = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let max_age = directives.flat_map(|value| value.split(',')).find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        name.trim().eq_ignore_ascii_case("max-age").then(|| seconds(value))?
    });
    let Some(max_age) = max_age else {
        return LASTS_OTHERWISE;
    };
    let age = headers.get(AGE).and_then(|value| value.to_str().ok()).and_then(seconds);
    Duration::from_secs(max_age.saturating_sub(age.unwrap_or(0))).clamp(LASTS_MIN, LASTS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_by_https_or_from_this_machine() {
        let address = Address::parse("https://issuer.example/keys?v=1").unwrap();
        assert_eq!((address.secure, address.port, &*address.path), (true, 443, "/keys?v=1"));
        assert_eq!(address.origin(), "https://issuer.example");
        for text in ["http://127.0.0.1:9/k", "http://localhost", "http://[::1]:80/"] {
            assert!(!Address::parse(text).unwrap().secure, "{text}");
        }
        for text in [
            "",
            "issuer.example",
            "/keys",
            "ftp://issuer.example/",
            "http://issuer.example/keys",
            "http://127.0.0.1.example/",
            "https://a:b@issuer.example/",
            "http://localhost@issuer.example/",
            "file:///etc/passwd",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_document_lasts_as_long_as_its_server_says_within_limits() {
        for (cache_control, age, seconds) in [
            (Some("public, max-age=19845, must-revalidate"), None, 19_845),
            (Some("public, Max-Age=19845"), Some("845"), 19_000),
            (Some("max-age=0"), None, 60),
            (Some("max-age=99999999999"), None, 86_400),
            (Some("max-age=600"), Some("99999"), 60),
            (Some("max-age=soon"), None, 600),
            (Some("no-store"), None, 600),
            (None, None, 600),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = cache_control {
                headers.insert(CACHE_CONTROL, value.parse().unwrap());
            }
            if let Some(value) = age {
                headers.insert(AGE, value.parse().unwrap());
            }
            assert_eq!(lasts(&headers).as_secs(), seconds, "{cache_control:?} {age:?}");
        }
    }
}
