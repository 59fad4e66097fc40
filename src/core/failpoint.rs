//! Places where a test may cut the power: between every two durable effects.
//!
//! Debug builds read `EZOUT_FAIL_POINT` as `name` or `name:count` and abort the process, with no
//! chance to clean up, the given time that the place is passed. Release builds have none of it.

/// Dies here if the test asked for it.
#[cfg(debug_assertions)]
pub fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static TARGET: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    let target = TARGET.get_or_init(|| {
        #[expect(
            clippy::disallowed_methods,
            reason = "a switch of debug builds for tests, not an option"
        )]
        let text = std::env::var("EZOUT_FAIL_POINT").ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), count.parse().unwrap_or(1)))
    });
    if let Some((wanted, count)) = target
        && wanted == name
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *count
    {
        std::process::abort();
    }
}

/// Does nothing in a release build.
#[cfg(not(debug_assertions))]
pub fn hit(_name: &str) {}
