//! The integration tests: everything real, one binary, servers shared where a test allows it.

mod servers;
