//! NATS: one connection a process, and streams read in order.
//!
//! [`Link`] is the connection; it reconnects by itself and tells when it was lost. [`Reader`] gives
//! the messages of a stream exactly once and in order, through lost connections and restarts of the
//! server. What the messages mean is the business of `journal` and `updates`, which build on this.

mod address;
mod callout;
mod elsewhere;
mod link;
mod read;
mod restore;
mod settings;
mod users;

pub use self::address::Address;
pub use self::callout::{Admission, Caller, Callout, Issuer, NoIssuer, Seat};
pub use self::elsewhere::{Elsewhere, stay_useful, without_leader_since};
pub use self::link::{Connection, Link, LinkError, Status};
pub use self::read::{Plan, ReadError, Reader, Start, StoredMessage, get, get_many};
pub use self::restore::{Extent, Original, RestoreError, Restoring};
pub use self::settings::{Difference, amended, differences};
pub use self::users::{Act, RIGHTS, Right, Tried, User, keep_trying, keep_trying_as_nobody, not_refused, users_tag};
