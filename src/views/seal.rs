//! The seal of a basket's document: only the projector moves it, so a write that leaves it alone is somebody's edit.
//!
//! Each write of the projector has a new seal, even if nothing else changed. A change stream can leave
//! out those writes by the presence of that one field, and a document that appears whole is the
//! projector's if its seal fits what it says. It tells edits from writes and is no signature.

use mongodb::bson::{Bson, Document, doc};
use uuid::Uuid;

use crate::core::id::BasketId;

/// The field.
pub(super) const SEAL: &str = "seal";
/// The seal of a document that the projector is about to delete.
const VOID: &str = "void";
/// What a seal is made from, besides its own number.
const SEALED: &[&str] = &[
    "epoch",
    "sequence",
    "version",
    "status",
    "item_count",
    "adjustment",
    "total",
    "claimed_total",
    "verdict",
    "finding_count",
    "updated_at",
];

/// A new seal for a document of these fields.
pub(super) fn seal(id: BasketId, epoch: &str, scalars: &Document) -> String {
    let number = fastrand::u64(..);
    let mut fields = scalars.clone();
    fields.insert("epoch", epoch);
    format!("{number:016x}{}", digest(&id.to_string(), number, &fields))
}

/// Whether a whole document has the seal of what it says.
pub fn is_sealed(document: &Document) -> bool {
    let (Ok(id), Ok(seal)) = (document.get_str("_id"), document.get_str(SEAL)) else {
        return false;
    };
    let number = seal.get(..16).and_then(|number| u64::from_str_radix(number, 16).ok());
    number.is_some_and(|number| seal[16..] == digest(id, number, document))
}

/// Whether the projector was about to delete this document.
pub fn is_void(document: &Document) -> bool {
    document.get_str(SEAL).is_ok_and(|seal| seal == VOID)
}

/// What marks a document that is about to be deleted.
pub(super) fn void() -> Document {
    doc! { SEAL: VOID }
}

fn digest(id: &str, number: u64, fields: &Document) -> String {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend(id.as_bytes());
    let sealed: Document = SEALED
        .iter()
        .map(|name| ((*name).to_owned(), fields.get(name).cloned().unwrap_or(Bson::Null)))
        .collect();
    bytes.extend(sealed.to_vec().unwrap_or_default());
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &bytes).simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_fits_what_it_is_of_and_nothing_else() {
        let id = "123e4567-e89b-42d3-a456-426614174000.4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94";
        let mut document = doc! { "sequence": 7_i64, "total": 3_i64, "lines": [] };
        let basket = BasketId::parse(id).unwrap();
        let one = seal(basket, "e", &document);
        assert_ne!(one, seal(basket, "e", &document), "each write has its own");
        document.insert("_id", id);
        document.insert("epoch", "e");
        assert!(!is_sealed(&document));
        document.insert(SEAL, one);
        assert!(is_sealed(&document));
        for (field, value) in [
            ("total", Bson::Int64(4)),
            ("_id", "x".into()),
            (SEAL, "é".into()),
            (SEAL, VOID.into()),
        ] {
            let mut edited = document.clone();
            edited.insert(field, value);
            assert!(!is_sealed(&edited), "{field}");
            assert_eq!(is_void(&edited), edited.get_str(SEAL).unwrap() == VOID);
        }
    }
}
