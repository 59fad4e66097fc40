//! Who is calling, and whether they may: what every door asks.
//!
//! A token says who somebody is and what they may do; `members` adds to that, and `revocations` take it
//! away. Both are in memory and follow MongoDB, so a question waits for nothing but, at times, a key. The
//! answer itself is [`policy`]'s.
//!
//! While members and revocations could not be read yet, nobody is let in but those who append: an event is
//! not to be lost because MongoDB is away. What was read once stays in force until it can be read again.

mod refused;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::core::error_chain;
use crate::core::id::ShopperId;
use crate::core::policy::{self, Caller, Denied, Object, Role, Shops, Verb};
use crate::core::retry::Backoff;
use crate::keys::{Claims, Keys, Refused, SKEW_MAX};
use crate::metrics::Metrics;
use crate::views::{Deed, Member, Revocation, Revoked, Rights, ViewError, Views, parse_shops};

/// Rights are read again after this, whether or not they were told to have changed.
const READ_AGAIN: Duration = Duration::from_mins(1);
/// Rights that were read longer ago are not as they should be.
const OLD_AFTER: time::Duration = time::Duration::minutes(5);

/// What callers without a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Anonymous {
    /// Nothing.
    None,
    /// Append what shoppers do, as everybody could with the original service.
    Append,
}

/// How callers are let in.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// What callers without a token may do where callers are asked for one: `none`, or `append` what shoppers do, as the clients of the original service. Without it: `none`, and `append` with `ezout dev`.
    #[arg(long = "auth-anonymous", env = "EZOUT_AUTH_ANONYMOUS", value_enum)]
    pub anonymous: Option<Anonymous>,
}

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no token.
    #[error("a token is needed; send it as Authorization: Bearer TOKEN")]
    NoToken,
    /// The token is none that counts.
    #[error(transparent)]
    Token(#[from] Refused),
    /// The token, or whoever it is of, was revoked.
    #[error("the token was revoked; sign in again")]
    Revoked,
    /// Who may do what is not known yet.
    #[error("who may do what cannot be read now; try again")]
    Unavailable,
    /// It is known who it is, and they may not.
    #[error(transparent)]
    Denied(#[from] Denied),
}

impl Refusal {
    /// Its word in metrics.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Token(refused) => refused.word(),
            Self::Revoked => "revoked",
            Self::Unavailable => "unavailable",
            Self::Denied(denied) => denied.word(),
        }
    }
}

/// Somebody who came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Nobody is asked who they are.
    Anybody,
    /// Somebody without a token, where that is enough to append.
    Anonymous,
    /// Whoever the token says.
    Known(Arc<Known>),
}

/// Whoever a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    claims: Claims,
    /// What they may do by the token alone.
    caller: Caller,
    /// The shops that the token names.
    named: Shops,
}

/// What a gateway keeps of somebody, and gives back with each of their requests.
#[derive(Serialize, Deserialize)]
struct KeptClaims {
    sub: String,
    jti: String,
    iat: i64,
    auth_time: Option<i64>,
    exp: i64,
    role: Option<String>,
    shops: Vec<String>,
    shopper_id: Option<String>,
    anonymous: bool,
}

impl Known {
    /// Who it is, by the issuer.
    pub fn subject(&self) -> &str {
        &self.claims.subject
    }

    /// What [`Identity::from_json`] reads again.
    pub fn json(&self) -> String {
        let Claims {
            subject,
            token_id,
            issued_at,
            authenticated_at,
            expires_at,
            role,
            shops,
            shopper_id,
            anonymous,
        } = self.claims.clone();
        let kept = KeptClaims {
            sub: subject,
            jti: token_id,
            iat: issued_at.unix_timestamp(),
            auth_time: authenticated_at.map(OffsetDateTime::unix_timestamp),
            exp: expires_at.unix_timestamp(),
            role,
            shops,
            shopper_id,
            anonymous,
        };
        serde_json::to_string(&kept).expect("texts and numbers are JSON")
    }

    /// What a token gives a right to. Without a role it is that of a shopper.
    fn of(claims: Claims) -> Result<Self, Refusal> {
        let unread = Refused::Malformed("its role, shops or shopper_id are none that there are");
        let role = match claims.role.as_deref() {
            // Somebody of whom Firebase did not ask who it is.
            _ if claims.anonymous => Role::Shopper,
            None => Role::Shopper,
            Some(word) => Role::parse(word).ok_or(unread)?,
        };
        let named = parse_shops(&claims.shops).ok_or(unread)?;
        let shopper = claims.shopper_id.as_deref().map(ShopperId::parse);
        let caller = Caller {
            role,
            shops: if is_anywhere(role, [&named, &NOWHERE]) {
                Shops::All
            } else {
                named.clone()
            },
            shopper: shopper.transpose().map_err(|_| unread)?,
        };
        Ok(Self { claims, caller, named })
    }

    /// What they are, and in which shops: those of both together.
    fn reach<'a>(&'a self, member: Option<&'a Member>) -> (Role, [&'a Shops; 2]) {
        let Some(member) = member else {
            return (self.caller.role, [&self.caller.shops, &NOWHERE]);
        };
        let named = match &self.named {
            // `*` was given to the role of the token: a gateway for all shops who is support of one is not support of all.
            Shops::All if member.role != self.caller.role => &NOWHERE,
            // Not those of the token's own role: a shopper who may be in any shop is no merchant of all.
            named => named,
        };
        let is_anywhere = is_anywhere(member.role, [named, &member.shops]);
        let given = if is_anywhere { &EVERYWHERE } else { &member.shops };
        (member.role, [named, given])
    }

    /// What they may do, as a member as well if they are one.
    fn caller(&self, member: Option<&Member>) -> Caller {
        let (role, [named, given]) = self.reach(member);
        Caller {
            role,
            shops: named.clone().and(given.clone()),
            shopper: self.caller.shopper,
        }
    }
}

static NOWHERE: Shops = Shops::NONE;
static EVERYWHERE: Shops = Shops::All;

/// Whether somebody of this role to whom these shops were given may be in all. A shopper without any may.
fn is_anywhere(role: Role, given: [&Shops; 2]) -> bool {
    role == Role::Shopper && given.into_iter().all(|shops| *shops == NOWHERE)
}

impl Identity {
    /// Whoever it was of whom [`Known::json`] was kept by somebody who is believed.
    ///
    /// # Errors
    /// [`Refusal::Token`] if it is not what was kept.
    pub fn from_json(json: &str) -> Result<Self, Refusal> {
        let unread = Refused::Malformed("it was not given by this service");
        let kept: KeptClaims = serde_json::from_str(json).map_err(|_| unread)?;
        let time = |seconds| OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| unread);
        let known = Known::of(Claims {
            subject: kept.sub,
            token_id: kept.jti,
            issued_at: time(kept.iat)?,
            authenticated_at: kept.auth_time.map(time).transpose()?,
            expires_at: time(kept.exp)?,
            role: kept.role,
            shops: kept.shops,
            shopper_id: kept.shopper_id,
            anonymous: kept.anonymous,
        })?;
        Ok(Self::Known(Arc::new(known)))
    }

    /// Who it is, for people; nothing if that is not known.
    pub fn subject(&self) -> Option<&str> {
        match self {
            Self::Known(known) => Some(&known.claims.subject),
            Self::Anybody | Self::Anonymous => None,
        }
    }

    /// Until when it counts; nothing if for ever.
    pub fn expires_at(&self) -> Option<OffsetDateTime> {
        match self {
            Self::Known(known) => Some(known.claims.expires_at),
            Self::Anybody | Self::Anonymous => None,
        }
    }
}

/// The token in the value of a header `Authorization`.
///
/// # Errors
/// [`Refusal::Token`] where it is not `Bearer` and one token (RFC 6750, section 2.1).
pub fn bearer(value: &str) -> Result<&str, Refusal> {
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Refusal::Token(Refused::Malformed(
            "the header Authorization has to be Bearer and the token",
        ))),
    }
}

/// The one who decides; clones share it.
#[derive(Debug, Clone)]
pub struct Access(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    /// Nothing where nobody is asked.
    asking: Option<Asking>,
    /// Where it is noted who asks for what.
    audit: Option<Views>,
    /// That somebody came by another part, where this one asks nobody, was said.
    is_told: AtomicBool,
    anonymous: bool,
    rights: watch::Receiver<Option<Arc<Rights>>>,
}

/// What it takes to ask somebody.
#[derive(Debug)]
struct Asking {
    keys: Keys,
    refused: mpsc::Sender<Deed>,
    metrics: Arc<Metrics>,
    started_at: OffsetDateTime,
}

impl Access {
    /// Lets everybody do everything. Who comes by another part, where callers are asked, is noted here all the same.
    pub fn off(audit: Option<Views>) -> Self {
        Self(Arc::new(Parts {
            asking: None,
            audit,
            is_told: AtomicBool::new(false),
            anonymous: true,
            rights: watch::channel(Some(Arc::default())).1,
        }))
    }

    /// Starts to follow members and revocations, and returns at once, whether or not MongoDB is there.
    pub fn start(
        config: &Config,
        keys: Keys,
        views: Views,
        metrics: Arc<Metrics>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (sender, rights) = watch::channel(None);
        let (refused, deeds) = mpsc::channel(refused::WAITING_MAX);
        let follows = follow(views.clone(), sender, Arc::clone(&metrics));
        let notes = refused::note_all(views.clone(), Arc::clone(&metrics), deeds);
        let ended = stop.clone();
        tasks.spawn(async move { ended.run_until_cancelled(follows).await });
        tasks.spawn(async move { stop.run_until_cancelled(notes).await });
        Self(Arc::new(Parts {
            asking: Some(Asking {
                keys,
                refused,
                metrics,
                started_at: OffsetDateTime::now_utc(),
            }),
            audit: Some(views),
            is_told: AtomicBool::new(false),
            anonymous: config.anonymous == Some(Anonymous::Append),
            rights,
        }))
    }

    /// Whether callers are asked who they are.
    pub fn asks(&self) -> bool {
        self.0.asking.is_some()
    }

    /// The origin at which the issuer of tokens gives them, where it is known.
    pub fn token_origin(&self) -> Option<String> {
        self.0.asking.as_ref()?.keys.token_origin()
    }

    /// Who somebody with this token is.
    ///
    /// # Errors
    /// [`Refusal`] where the token does not count, or there has to be one.
    pub async fn identify(&self, token: Option<&str>, now: OffsetDateTime) -> Result<Identity, Refusal> {
        let Some(Asking { keys, .. }) = &self.0.asking else {
            return Ok(Identity::Anybody);
        };
        let Some(token) = token else {
            return if self.0.anonymous {
                Ok(Identity::Anonymous)
            } else {
                Err(Refusal::NoToken)
            };
        };
        let claims = keys.verify(token, now).await?;
        self.check_claims(&claims, now)?;
        Ok(Identity::Known(Arc::new(Known::of(claims)?)))
    }

    /// Whether somebody still is who they were.
    ///
    /// # Errors
    /// [`Refusal`] where their token does not count any more.
    pub fn check(&self, identity: &Identity, now: OffsetDateTime) -> Result<(), Refusal> {
        match identity {
            Identity::Known(known) => self.check_claims(&known.claims, now),
            Identity::Anybody | Identity::Anonymous => Ok(()),
        }
    }

    /// Whether somebody may do that now.
    ///
    /// # Errors
    /// [`Refusal`]; it may be another one a moment later.
    pub fn decide(&self, identity: &Identity, verb: Verb, object: Object, now: OffsetDateTime) -> Result<(), Refusal> {
        match identity {
            Identity::Anybody => Ok(()),
            Identity::Anonymous => match policy::decide(&Caller::anonymous(), verb, object) {
                Ok(()) => Ok(()),
                // Another role would be of a token.
                Err(_) => Err(Refusal::NoToken),
            },
            Identity::Known(known) => {
                self.check_claims(&known.claims, now)?;
                let rights = self.rights();
                if rights.is_none() && verb != Verb::Append {
                    return Err(Refusal::Unavailable);
                }
                let member = rights.as_ref().and_then(|rights| rights.members.get(known.subject()));
                let (role, shops) = known.reach(member);
                Ok(policy::decide_in(role, shops, verb, object)?)
            }
        }
    }

    /// What somebody is and where, by their token and as a member.
    ///
    /// # Errors
    /// [`Refusal`] where they are nobody, where their token does not count any more, or where nobody can tell.
    pub fn caller(&self, identity: &Identity, now: OffsetDateTime) -> Result<Caller, Refusal> {
        match identity {
            Identity::Anybody => Ok(Caller::everybody()),
            Identity::Anonymous => Err(Refusal::NoToken),
            Identity::Known(known) => {
                self.check_claims(&known.claims, now)?;
                let rights = self.rights().ok_or(Refusal::Unavailable)?;
                Ok(known.caller(rights.members.get(known.subject())))
            }
        }
    }

    /// In which shops somebody may do that now, one at least.
    ///
    /// # Errors
    /// [`Refusal`] where in none.
    pub fn shops(&self, identity: &Identity, verb: Verb, now: OffsetDateTime) -> Result<Shops, Refusal> {
        let Identity::Known(known) = identity else {
            return self.decide(identity, verb, Object::System, now).map(|()| Shops::All);
        };
        self.check_claims(&known.claims, now)?;
        let rights = self.rights();
        if rights.is_none() && verb != Verb::Append {
            return Err(Refusal::Unavailable);
        }
        let member = rights.as_ref().and_then(|rights| rights.members.get(known.subject()));
        let Caller { role, shops, .. } = known.caller(member);
        if !role.may(verb) {
            return Err(Denied::Role.into());
        }
        if shops == NOWHERE {
            return Err(Denied::Shop.into());
        }
        Ok(shops)
    }

    /// When somebody's token was revoked; nothing if it was not.
    fn revoked_at(&self, identity: &Identity, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let Identity::Known(known) = identity else {
            return None;
        };
        let rights = self.rights()?;
        revocation_of(&rights, &known.claims, now)
    }

    /// Whether somebody who may append may do so for this shopper.
    ///
    /// # Errors
    /// [`Refusal::Denied`].
    pub fn decide_shopper(&self, identity: &Identity, shopper: ShopperId) -> Result<(), Refusal> {
        match identity {
            Identity::Anybody | Identity::Anonymous => Ok(()),
            Identity::Known(known) => Ok(policy::decide_shopper(&known.caller, shopper)?),
        }
    }

    /// Notes that somebody asks for this, before it is done; where nobody is known there is nobody to note.
    ///
    /// # Errors
    /// [`ViewError`]; then it should not be done.
    pub async fn note(&self, identity: &Identity, deed: Deed) -> Result<(), ViewError> {
        let Some(subject) = identity.subject() else {
            return Ok(());
        };
        if !self.asks() && !self.0.is_told.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "a caller who has a name came by another process, and this one runs with EZOUT_AUTH=off, so it hears of no \
                 revocation; give every part of a deployment the same EZOUT_AUTH"
            );
        }
        match &self.0.audit {
            Some(views) => views.keep_deed(&deed.by(subject)).await,
            None => Ok(()),
        }
    }

    /// Notes that somebody was not let do something, as far as there is room; who is not known is only counted.
    pub fn note_refused(&self, identity: &Identity, verb: Verb, object: Object, refusal: &Refusal) {
        let (Some(asking), Some(subject), Refusal::Denied(_)) = (&self.0.asking, identity.subject(), refusal) else {
            return;
        };
        let deed = match object {
            Object::Shop(shop) => Deed::in_shop(verb, verb.word().to_owned(), shop),
            Object::System => Deed::of_system(verb, verb.word().to_owned()),
        };
        if asking
            .refused
            .try_send(deed.by(subject).refused(refusal.word()))
            .is_err()
        {
            asking.metrics.audit_left_out.inc();
        }
    }

    /// Waits until somebody may no longer do what they may now, and says why. It never returns where nothing can end it.
    pub async fn ended(&self, identity: &Identity, verb: Verb, object: Object) -> Refusal {
        let mut rights = self.0.rights.clone();
        loop {
            rights.borrow_and_update();
            let now = OffsetDateTime::now_utc();
            match self.decide(identity, verb, object, now) {
                Ok(()) => {}
                Err(refusal) => return refusal,
            }
            let left = identity.expires_at().map(|until| until - now);
            let expiry = async {
                match left {
                    // A moment late rather than early, so that it is over when it is looked at again.
                    Some(left) => {
                        let left = Duration::try_from(left).unwrap_or_default();
                        tokio::time::sleep(left + Duration::from_millis(1)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = expiry => {}
                changed = rights.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        }
    }

    /// Members and revocations; nothing before they were read for the first time.
    fn rights(&self) -> Option<Arc<Rights>> {
        self.0.rights.borrow().clone()
    }

    /// Why members and revocations may not be as they should; nothing where they are, or nobody is asked.
    pub fn doubt(&self, now: OffsetDateTime) -> Option<String> {
        let asking = self.0.asking.as_ref()?;
        let read = asking.metrics.rights_read.get();
        doubt(read, asking.started_at, now)
    }

    /// Tells whenever members or revocations may be others.
    pub fn changes(&self) -> watch::Receiver<Option<Arc<Rights>>> {
        self.0.rights.clone()
    }

    /// Measures how long after their revocation somebody was sent away from a door; of one whose right ended otherwise, since `known`.
    pub fn sent_away(&self, identity: &Identity, door: &str, known: Option<OffsetDateTime>) {
        let now = OffsetDateTime::now_utc();
        if let (Some(asking), Some(at)) = (&self.0.asking, self.revoked_at(identity, now).or(known)) {
            let took = (now - at).as_seconds_f64().max(0.0);
            asking
                .metrics
                .revocation_seconds
                .with_label_values(&[door])
                .observe(took);
        }
    }

    /// Whether a token still counts that was verified before.
    fn check_claims(&self, claims: &Claims, now: OffsetDateTime) -> Result<(), Refusal> {
        if claims.expires_at <= now {
            return Err(Refusal::Token(Refused::Expired));
        }
        let rights = self.0.rights.borrow();
        let Some(rights) = rights.as_ref().filter(|rights| !rights.revoked.is_empty()) else {
            return Ok(());
        };
        match revocation_of(rights, claims, now) {
            Some(_) => Err(Refusal::Revoked),
            None => Ok(()),
        }
    }
}

/// When a token was revoked, as far as that counts at the time `now`: itself, or with all of its subject that were signed
/// in for before then, by a clock of the issuer that may be ahead of the one of the revocation. One that does not say when
/// that was may be of an old sign-in however new it is.
fn revocation_of(rights: &Rights, claims: &Claims, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let counts = |revocation: &&Revocation| revocation.ends_at.is_none_or(|end| now < end);
    let is_of_before =
        |revocation: &&Revocation| claims.authenticated_at.is_none_or(|at| at - revocation.at <= SKEW_MAX);
    let of_subject = rights.revoked.get(&Revoked::Subject(claims.subject.clone()));
    let of_subject = of_subject.filter(counts).filter(is_of_before);
    let of_token = rights.revoked.get(&Revoked::Token(claims.token_id.clone()));
    let all = [of_subject, of_token.filter(counts)].into_iter().flatten();
    // Since the first of them it has not counted.
    all.map(|revocation| revocation.at).min()
}

/// Why rights are doubtful that were read then, in seconds since 1970 and 0 if never, since the start.
fn doubt(read: i64, started_at: OffsetDateTime, now: OffsetDateTime) -> Option<String> {
    let read_at = OffsetDateTime::from_unix_timestamp(read).ok().filter(|_| read > 0);
    let old = now - read_at.unwrap_or(started_at);
    let minutes = old.whole_minutes();
    (old >= OLD_AFTER).then(|| match read_at {
        Some(_) => format!(
            "members and revocations were read {minutes} minutes ago and not since, so a revocation may not count here"
        ),
        None => format!(
            "members and revocations could not be read for {minutes} minutes, so nobody is let in but those who append"
        ),
    })
}

/// Keeps the rights as they are in MongoDB.
async fn follow(views: Views, rights: watch::Sender<Option<Arc<Rights>>>, metrics: Arc<Metrics>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    let mut told = false;
    loop {
        match keep(&views, &rights, &metrics, &mut backoff, &mut told).await {
            Ok(never) => match never {},
            Err(error) if std::mem::replace(&mut told, true) => tracing::debug!("{}", error_chain(&error)),
            Err(error) => tracing::warn!(
                "members and revocations cannot be followed, and those known stay in force: {}",
                error_chain(&error)
            ),
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

async fn keep(
    views: &Views,
    rights: &watch::Sender<Option<Arc<Rights>>>,
    metrics: &Metrics,
    backoff: &mut Backoff,
    told: &mut bool,
) -> Result<std::convert::Infallible, ViewError> {
    let mut changes = views.rights_changes().await?;
    loop {
        let read = Arc::new(views.rights().await?);
        let at = tokio::time::Instant::now();
        metrics.rights_read.set(OffsetDateTime::now_utc().unix_timestamp());
        backoff.reset();
        *told = false;
        rights.send_if_modified(|known| {
            let is_other = known.as_ref() != Some(&read);
            if is_other {
                *known = Some(read);
            }
            is_other
        });
        while !changes.next().await? && at.elapsed() < READ_AGAIN {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use uuid::Uuid;

    use super::*;
    use crate::core::id::ShopId;

    fn known(role: Option<&str>, shops: &[ShopId]) -> Known {
        let now = OffsetDateTime::UNIX_EPOCH;
        Known::of(Claims {
            subject: "ada".to_owned(),
            token_id: "1".to_owned(),
            issued_at: now,
            authenticated_at: Some(now),
            expires_at: now,
            role: role.map(str::to_owned),
            shops: shops.iter().map(ToString::to_string).collect(),
            shopper_id: None,
            anonymous: false,
        })
        .unwrap()
    }

    #[test]
    fn every_refusal_is_counted_from_the_start() {
        let text = Metrics::new().text();
        let all = [Refusal::NoToken, Refusal::Revoked, Refusal::Unavailable].into_iter();
        let all = all
            .chain(Refused::ALL.map(Refusal::Token))
            .chain(Denied::ALL.map(Refusal::Denied));
        let words: BTreeSet<&str> = all.map(|refusal| refusal.word()).collect();
        for word in &words {
            assert!(
                text.contains(&format!("ezout_refusals_total{{reason=\"{word}\"}} 0\n")),
                "{word}"
            );
        }
        assert_eq!(text.matches("ezout_refusals_total{").count(), words.len());
    }

    #[test]
    fn a_member_is_where_the_token_and_the_membership_name_and_nowhere_else() {
        let [one, other] = [1, 2].map(|n| ShopId::from(Uuid::from_u128(n)));
        let only = |shops: &[ShopId]| Shops::Only(shops.iter().copied().collect());
        let as_member = |known: &Known, role, shops| known.caller(Some(&Member { role, shops })).shops;
        // Whoever signs in without custom claims is a shopper, and may append in every shop.
        let plain = known(None, &[]);
        assert_eq!((plain.caller.role, &plain.caller.shops), (Role::Shopper, &Shops::All));
        assert_eq!(as_member(&plain, Role::Merchant, only(&[one])), only(&[one]));
        assert_eq!(as_member(&plain, Role::Shopper, Shops::NONE), Shops::All);
        let merchant = known(Some("merchant"), &[one]);
        assert_eq!(as_member(&merchant, Role::Support, only(&[other])), only(&[one, other]));
        assert_eq!(as_member(&merchant, Role::Shopper, Shops::NONE), only(&[one]));
        // What a token says of every shop it says of its own role.
        let mut everywhere = known(Some("merchant"), &[]).claims;
        everywhere.shops = vec!["*".to_owned()];
        let everywhere = Known::of(everywhere).unwrap();
        assert_eq!(as_member(&everywhere, Role::Support, only(&[one])), only(&[one]));
        assert_eq!(as_member(&everywhere, Role::Admin, Shops::NONE), Shops::NONE);
        assert_eq!(as_member(&everywhere, Role::Merchant, only(&[one])), Shops::All);
        assert_eq!(as_member(&everywhere, Role::Support, Shops::All), Shops::All);
    }

    /// Somebody who is let in with these rights.
    fn access(rights: Option<Rights>) -> Access {
        Access(Arc::new(Parts {
            asking: None,
            audit: None,
            is_told: AtomicBool::new(false),
            anonymous: false,
            rights: watch::channel(rights.map(Arc::new)).1,
        }))
    }

    #[test]
    fn whoever_has_many_shops_is_told_each_of_them_and_nobody_elses() {
        let now = OffsetDateTime::UNIX_EPOCH - Duration::from_secs(1);
        let shops = |numbers: std::ops::Range<u128>| -> Vec<ShopId> {
            numbers.map(|n| ShopId::from(Uuid::from_u128(n))).collect()
        };
        let only = |shops: &[ShopId]| Shops::Only(shops.iter().copied().collect());
        let (of_token, of_member) = (shops(0..10_000), shops(9_000..12_000));
        let identity = |role: Option<&str>, shops: &[ShopId]| Identity::Known(Arc::new(known(role, shops)));
        let merchant = identity(Some("merchant"), &of_token);

        let plain = access(Some(Rights::default()));
        assert_eq!(plain.shops(&merchant, Verb::Look, now), Ok(only(&of_token)));
        let role = Err(Refusal::Denied(Denied::Role));
        assert_eq!(plain.shops(&merchant, Verb::Correct, now), role);
        let nowhere = identity(Some("merchant"), &[]);
        let shop = Err(Refusal::Denied(Denied::Shop));
        assert_eq!(plain.shops(&nowhere, Verb::Look, now), shop);
        let expired = Err(Refusal::Token(Refused::Expired));
        assert_eq!(plain.shops(&merchant, Verb::Look, OffsetDateTime::UNIX_EPOCH), expired);
        let unknown = access(None);
        assert_eq!(unknown.shops(&merchant, Verb::Look, now), Err(Refusal::Unavailable));
        let shopper = identity(None, &of_token);
        assert_eq!(unknown.shops(&shopper, Verb::Append, now), Ok(only(&of_token)));
        assert_eq!(unknown.shops(&identity(None, &[]), Verb::Append, now), Ok(Shops::All));

        let mut rights = Rights::default();
        let member = Member {
            role: Role::Support,
            shops: only(&of_member),
        };
        rights.members.insert("ada".to_owned(), member);
        let with_member = access(Some(rights));
        let both = shops(0..12_000);
        assert_eq!(with_member.shops(&merchant, Verb::Correct, now), Ok(only(&both)));
        for shop in &both {
            let decided = with_member.decide(&merchant, Verb::Correct, Object::Shop(*shop), now);
            assert_eq!(decided, Ok(()));
        }
        let other = Object::Shop(ShopId::from(Uuid::from_u128(12_000)));
        let decided = with_member.decide(&merchant, Verb::Correct, other, now);
        assert_eq!(decided, Err(Refusal::Denied(Denied::Shop)));
    }

    fn at(seconds: u64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn signed_in(authenticated_at: Option<OffsetDateTime>) -> Claims {
        Claims {
            authenticated_at,
            ..known(None, &[]).claims
        }
    }

    fn since(at: OffsetDateTime) -> Revocation {
        Revocation { at, ends_at: None }
    }

    #[test]
    fn a_token_is_revoked_since_what_revoked_it() {
        let now = at(1_000);
        let revoked = |rights: &Rights, time| revocation_of(rights, &signed_in(Some(at(time))), now);
        let mut rights = Rights::default();
        rights
            .revoked
            .insert(Revoked::Subject("ada".to_owned()), since(at(100)));
        assert_eq!(revoked(&rights, 100), Some(at(100)));
        assert_eq!(revoked(&rights, 160), Some(at(100)), "by a clock that is ahead");
        assert_eq!(revoked(&rights, 161), None, "signed in again");
        rights.revoked.insert(Revoked::Token("1".to_owned()), since(at(200)));
        assert_eq!(revoked(&rights, 161), Some(at(200)));
        // The subject was revoked again after the token, which is not of those that it means.
        rights
            .revoked
            .insert(Revoked::Subject("ada".to_owned()), since(at(300)));
        assert_eq!(revoked(&rights, 361), Some(at(200)));
        assert_eq!(revoked(&rights, 0), Some(at(200)));
    }

    #[test]
    fn a_token_that_says_nothing_of_a_sign_in_is_no_sign_of_a_new_one() {
        let mut rights = Rights::default();
        rights
            .revoked
            .insert(Revoked::Subject("ada".to_owned()), since(at(100)));
        let renewed = Claims {
            issued_at: at(500),
            ..signed_in(None)
        };
        assert_eq!(revocation_of(&rights, &renewed, at(501)), Some(at(100)));
        // Until the end that somebody has given it, or until it is gone.
        let until = Revocation {
            ends_at: Some(at(600)),
            ..since(at(100))
        };
        rights.revoked.insert(Revoked::Subject("ada".to_owned()), until);
        assert_eq!(revocation_of(&rights, &renewed, at(599)), Some(at(100)));
        assert_eq!(revocation_of(&rights, &renewed, at(600)), None);
        assert_eq!(revocation_of(&Rights::default(), &renewed, at(501)), None);
    }

    #[test]
    fn what_a_gateway_keeps_says_whether_a_sign_in_is_known() {
        for authenticated_at in [None, Some(at(7))] {
            let known = Known {
                claims: signed_in(authenticated_at),
                ..known(None, &[])
            };
            let Ok(Identity::Known(read)) = Identity::from_json(&known.json()) else {
                panic!("it is what was kept");
            };
            assert_eq!(*read, known);
        }
    }

    #[test]
    fn rights_are_doubtful_that_were_not_read_for_minutes() {
        let at = |minutes| OffsetDateTime::UNIX_EPOCH + time::Duration::minutes(minutes);
        let read = |minutes| at(minutes).unix_timestamp();
        assert_eq!(doubt(0, at(10), at(14)), None);
        assert!(
            doubt(0, at(10), at(15))
                .unwrap()
                .contains("could not be read for 5 minutes")
        );
        assert_eq!(doubt(read(20), at(10), at(24)), None);
        assert!(doubt(read(20), at(10), at(26)).unwrap().contains("6 minutes ago"));
        assert_eq!(Access::off(None).doubt(at(1_000_000)), None);
    }
}
