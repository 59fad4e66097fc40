//! The trace context of a request, and of the event that it brought: W3C Trace Context, level 1.
//!
//! A phone or a gateway may send one as `traceparent`. It stays with the event through the journal to its update,
//! so that one id finds every line and every span about it.

use std::fmt;

/// Name of the header, in HTTP and in NATS.
pub const TRACEPARENT: &str = "traceparent";
/// Length of the header's value in version 00, in bytes.
const LENGTH: usize = 55;

/// One part of a trace: which trace, which part, and whether it is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace: u128,
    /// The part, a span; never 0.
    pub span: u64,
    /// Whether whoever began the trace keeps it.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`; nothing if it is malformed, which section 3.3.1 says to treat as if there was none.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (version, rest) = (hex(bytes.get(..2)?)?, bytes.get(LENGTH..)?);
        // Later versions may only add to this one, behind another dash.
        let is_known = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let dashes = [2, 35, 52].iter().all(|place| bytes[*place] == b'-');
        let trace = hex(&bytes[3..35])?;
        let span = u64::try_from(hex(&bytes[36..52])?).ok()?;
        let flags = hex(&bytes[53..55])?;
        (is_known && dashes && trace != 0 && span != 0).then_some(Self {
            trace,
            span,
            sampled: flags & 1 == 1,
        })
    }

    /// A new part: of the same trace as its parent, of a trace of its own where there is none.
    pub fn below(parent: Option<Self>) -> Self {
        Self {
            trace: parent.map_or_else(|| fastrand::u128(1..), |parent| parent.trace),
            span: fastrand::u64(1..),
            sampled: parent.is_some_and(|parent| parent.sampled),
        }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span)
    }
}

/// Lower-case hexadecimal digits, at most 32.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_read_is_written_again() {
        for text in [TEXT, "00-00000000000000000000000000000001-0000000000000001-00"] {
            assert_eq!(TraceContext::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = format!("cc{}-what-the-future-is-like", &TEXT[2..]);
        assert_eq!(TraceContext::parse(&later), TraceContext::parse(TEXT));
        // Other flags tell nothing about this one.
        let flags = format!("{}ff", &TEXT[..53]);
        assert_eq!(TraceContext::parse(&flags), TraceContext::parse(TEXT));
    }

    #[test]
    fn what_breaks_the_rules_is_none() {
        let without_trace = format!("00-{:032x}-00f067aa0ba902b7-01", 0);
        let without_span = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{:016x}-01", 0);
        let more = format!("{TEXT}-more");
        let upper = TEXT.to_uppercase();
        let forbidden = format!("ff{}", &TEXT[2..]);
        let later_without_dash = format!("cc{}x", &TEXT[2..]);
        for text in [
            "",
            "00",
            &TEXT[..54],
            &without_trace,
            &without_span,
            &more,
            &upper,
            &forbidden,
            &later_without_dash,
            &TEXT.replace('-', "_"),
            &TEXT.replace("4b", "é"),
            &format!(" {}", &TEXT[1..]),
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_part_is_of_its_parents_trace_and_else_of_its_own() {
        let parent = TraceContext::parse(TEXT).unwrap();
        let part = TraceContext::below(Some(parent));
        assert_eq!((part.trace, part.sampled), (parent.trace, true));
        assert_ne!(part.span, parent.span);
        let (one, other) = (TraceContext::below(None), TraceContext::below(None));
        assert_ne!(one.trace, other.trace);
        assert!(!one.sampled);
    }
}
