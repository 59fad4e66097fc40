//! The files of the page, which are part of the program.
//!
//! They are packed once, when the process starts, and sent as they are from then on. A browser asks each time whether it
//! still has the newest, which is answered without a body if it has.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write as _;
use std::sync::LazyLock;

use axum::http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use rust_embed::RustEmbed;
use uuid::Uuid;

use crate::http::problem::{Code, Problem};
use crate::http::read::matches_tag;

/// How hard a file is packed: a little less than can be, which takes a tenth of the time.
const BROTLI_QUALITY: u32 = 9;
/// 4 MiB of what came before are looked at, as every browser can.
const BROTLI_WINDOW: u32 = 22;

#[derive(RustEmbed)]
#[folder = "web/dist"]
struct Dist;

/// A file of the page, ready to be sent.
struct File {
    kind: &'static str,
    tag: String,
    plain: Bytes,
    brotli: Option<Bytes>,
    gzip: Option<Bytes>,
}

static FILES: LazyLock<HashMap<String, File>> = LazyLock::new(|| {
    let file = |name: Cow<'static, str>| Some((name.to_string(), File::of(&name, Dist::get(&name)?.data)));
    Dist::iter().filter_map(file).collect()
});

/// Packs the files, beside everything else that a process does at its start.
pub(in crate::http) fn prepare() {
    std::thread::spawn(|| LazyLock::force(&FILES));
}

impl File {
    fn of(name: &str, data: Cow<'static, [u8]>) -> Self {
        let plain = match data {
            Cow::Borrowed(data) => Bytes::from_static(data),
            Cow::Owned(data) => Bytes::from(data),
        };
        // What does not get smaller is sent as it is.
        let smaller = |packed: Vec<u8>| (packed.len() < plain.len()).then(|| Bytes::from(packed));
        Self {
            kind: kind_of(name),
            tag: format!("W/\"{}\"", Uuid::new_v5(&Uuid::NAMESPACE_OID, &plain).simple()),
            brotli: smaller(brotli(&plain)),
            gzip: smaller(gzip(&plain)),
            plain,
        }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let (encoding, body) = match accepted(headers) {
            Packed::Brotli if self.brotli.is_some() => (Some("br"), self.brotli.as_ref()),
            Packed::Brotli | Packed::Gzip if self.gzip.is_some() => (Some("gzip"), self.gzip.as_ref()),
            _ => (None, None),
        };
        let mut response = if matches_tag(headers, &self.tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let mut response = body.unwrap_or(&self.plain).clone().into_response();
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
            if let Some(encoding) = encoding {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            response
        };
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(ETAG, HeaderValue::try_from(&self.tag).expect("digits and quotes"));
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        response
    }
}

fn kind_of(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        Some("json" | "webmanifest") => "application/json",
        Some("txt" | "md") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn brotli(plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut writer = brotli::CompressorWriter::new(&mut packed, 64 * 1024, BROTLI_QUALITY, BROTLI_WINDOW);
    writer.write_all(plain).expect("memory takes everything");
    drop(writer);
    packed
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    writer.write_all(plain).expect("memory takes everything");
    writer.finish().expect("memory takes everything")
}

/// How a client takes an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packed {
    Brotli,
    Gzip,
    Not,
}

fn accepted(headers: &HeaderMap) -> Packed {
    let values = headers.get_all(ACCEPT_ENCODING).iter();
    let names: Vec<&str> = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter(|coding| !is_refused(coding))
        .map(|coding| coding.split(';').next().unwrap_or_default().trim())
        .collect();
    let has = |name: &str| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    if has("br") {
        Packed::Brotli
    } else if has("gzip") {
        Packed::Gzip
    } else {
        Packed::Not
    }
}

/// Whether a coding has the weight 0, which says that it is not taken.
fn is_refused(coding: &str) -> bool {
    let weight = coding
        .split(';')
        .skip(1)
        .find_map(|part| part.trim().strip_prefix("q="));
    weight.is_some_and(|weight| weight.trim().parse() == Ok(0.0_f32))
}

/// Answers with a file.
pub(super) fn named(name: &str, headers: &HeaderMap) -> Response {
    match FILES.get(name) {
        Some(file) => file.answer(headers),
        None => Problem::new(Code::NotFound, "the page has no such file").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::headers;
    use super::*;

    #[test]
    fn what_is_packed_is_what_the_client_takes() {
        for (value, packed) in [
            ("gzip, deflate, br, zstd", Packed::Brotli),
            ("br;q=0, GZIP;q=0.5", Packed::Gzip),
            ("gzip;q=0.0, identity", Packed::Not),
            ("", Packed::Not),
        ] {
            assert_eq!(accepted(&headers(&[(ACCEPT_ENCODING, value)])), packed, "{value}");
        }
        assert_eq!(accepted(&HeaderMap::new()), Packed::Not);
    }

    #[test]
    fn a_file_is_sent_packed_whole_or_not_at_all() {
        let text = "merchant ".repeat(500);
        let file = File::of("a.js", Cow::Owned(text.clone().into_bytes()));
        let mut unpacked = Vec::new();
        let packed = file.brotli.clone().unwrap();
        brotli::BrotliDecompress(&mut packed.as_ref(), &mut unpacked).unwrap();
        assert_eq!(unpacked, text.as_bytes());
        let mut unpacked = String::new();
        let packed = file.gzip.clone().unwrap();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed.as_ref()), &mut unpacked).unwrap();
        assert_eq!(unpacked, text);
        // Nothing to be had from packing.
        assert!(File::of("b.png", Cow::Borrowed(b"x")).gzip.is_none());

        let answer = file.answer(&headers(&[(ACCEPT_ENCODING, "br")]));
        assert_eq!(answer.headers()[CONTENT_ENCODING], "br");
        let tag = answer.headers()[ETAG].clone();
        let again = HeaderMap::from_iter([(axum::http::header::IF_NONE_MATCH, tag.clone())]);
        let answer = file.answer(&again);
        assert_eq!(
            (answer.status(), &answer.headers()[ETAG]),
            (StatusCode::NOT_MODIFIED, &tag)
        );
        assert_ne!(File::of("a.js", Cow::Borrowed(b"other")).tag.as_bytes(), tag.as_bytes());
    }
}
