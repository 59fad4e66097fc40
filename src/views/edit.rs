//! What somebody changed in a basket's document by hand, as differences that a correction can say.
//!
//! A few fields may be changed by a person: the pieces and prices of a line, a line as a whole, the
//! total, the status. What follows from these (a line's amount, the number of pieces) may be changed
//! along or left. Whatever else differs makes the whole edit one that is refused.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::{Bson, Document};

use super::document::money;
use crate::core::basket::Status;
use crate::core::event::Change;
use crate::core::money::Money;

/// Fields that a person may change, or that follow from such a change.
const EDITABLE: &[&str] = &["lines", "total", "status", "item_count"];
/// The same of a line.
const EDITABLE_OF_LINE: &[&str] = &["quantity", "prices", "amount"];

/// Why an edit is no correction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// Stable word for the rule.
    pub code: &'static str,
    /// The rule, for the person who edited.
    pub reason: String,
}

fn refused<T>(code: &'static str, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        code,
        reason: reason.into(),
    })
}

/// Pieces of a line by price, in their order.
type Lots = Vec<(Money, u64)>;

struct EditedLine<'a> {
    document: &'a Document,
    quantity: u64,
    lots: Lots,
}

/// The differences that an edit made; empty if it changed nothing.
///
/// # Errors
/// [`Refusal`] where somebody changed what no person may change, or what cannot be understood.
pub fn difference(before: Option<&Document>, after: Option<&Document>) -> Result<Vec<Change>, Refusal> {
    let (before, after) = match (before, after) {
        (Some(before), Some(after)) => (before, after),
        (None, Some(_)) => {
            return refused(
                "inserted",
                "a basket comes from the events of its session, and is not inserted",
            );
        }
        (Some(_), None) => return refused("deleted", "a basket is not deleted: set its status to cancelled"),
        (None, None) => return Ok(Vec::new()),
    };
    let edited: BTreeSet<&str> = before
        .keys()
        .chain(after.keys())
        .filter(|name| before.get(*name) != after.get(*name))
        .map(String::as_str)
        .collect();
    let strange: Vec<&str> = edited.iter().copied().filter(|name| !EDITABLE.contains(name)).collect();
    if !strange.is_empty() {
        return refused(
            "field",
            format!(
                "{} cannot be corrected; what can be are the quantity and the prices of a line, a line as a whole, total and status",
                strange.join(", ")
            ),
        );
    }
    let mut changes = Vec::new();
    let (mut pieces, mut amount) = (0, Money::ZERO);
    if edited.contains("lines") {
        changes = of_lines(before, after)?;
        for change in &changes {
            let (by, cost) = effect(change);
            pieces += by;
            amount += cost;
        }
    }
    if edited.contains("item_count") {
        let (was, is) = (whole(before.get("item_count")), whole(after.get("item_count")));
        if was.zip(is).is_none_or(|(was, is)| is - was != i128::from(pieces)) {
            return refused(
                "item_count",
                "item_count follows from the lines: change the quantity of a line",
            );
        }
    }
    if edited.contains("total") || !changes.is_empty() {
        let total = |document: &Document| amount_of(document.get("total"), "total");
        let was = total(before)?;
        let is = if edited.contains("total") {
            total(after)?
        } else {
            was + amount
        };
        if is.is_negative() && is < was {
            return refused(
                "negative_total",
                format!("the total would be {is}, and it must not be below 0"),
            );
        }
        let by = is - was - amount;
        if by != Money::ZERO {
            changes.push(Change::Total { by });
        }
    }
    if edited.contains("status") {
        let status = |document: &Document| document.get_str("status").ok().and_then(Status::of);
        match (status(before), status(after)) {
            (Some(from), Some(to)) if to != Status::Abandoned => changes.push(Change::Status { from, to }),
            _ => return refused("status", "a basket is made open, paid or cancelled by a person"),
        }
    }
    Ok(changes)
}

/// Pieces and money that come with a change of a line.
fn effect(change: &Change) -> (i64, Money) {
    let times = |price: Money, pieces: i64| Money::from_units(price.units() * i128::from(pieces));
    match *change {
        Change::Pieces { price, by, .. } => (by, times(price, by)),
        Change::Price { from, to, pieces, .. } => (0, times(to - from, i64::try_from(pieces).unwrap_or(i64::MAX))),
        _ => (0, Money::ZERO),
    }
}

fn of_lines(before: &Document, after: &Document) -> Result<Vec<Change>, Refusal> {
    let (before, after) = (lines(before)?, lines(after)?);
    if let Some(product) = after.keys().find(|product| !before.contains_key(product)) {
        return refused(
            "line",
            format!("the basket has no line of product {product}, and a correction adds none"),
        );
    }
    let mut changes = Vec::new();
    for (product_id, was) in &before {
        match after.get(product_id) {
            Some(is) if is.document == was.document => {}
            Some(is) => changes.extend(of_line(*product_id, was, is)?),
            None => changes.extend(pieces(*product_id, &was.lots, &Vec::new())),
        }
    }
    Ok(changes)
}

fn of_line(product_id: i64, was: &EditedLine<'_>, is: &EditedLine<'_>) -> Result<Vec<Change>, Refusal> {
    let names = was.document.keys().chain(is.document.keys());
    let strange = names
        .filter(|name| was.document.get(*name) != is.document.get(*name))
        .find(|name| !EDITABLE_OF_LINE.contains(&name.as_str()));
    if let Some(name) = strange {
        return refused(
            "line",
            format!("{name} of the line of product {product_id} cannot be corrected"),
        );
    }
    let changes = if was.lots == is.lots {
        by_quantity(product_id, was, is.quantity)?
    } else {
        let sum: u64 = is.lots.iter().map(|(_, quantity)| quantity).sum();
        if is.quantity != sum && is.quantity != was.quantity {
            return refused(
                "line",
                format!(
                    "the line of product {product_id} says {} pieces, and its prices {sum}",
                    is.quantity
                ),
            );
        }
        let same_pieces =
            was.lots.len() == is.lots.len() && was.lots.iter().zip(&is.lots).all(|(was, is)| was.1 == is.1);
        if same_pieces {
            let lots = was.lots.iter().zip(&is.lots).filter(|(was, is)| was.0 != is.0);
            lots.map(|((from, pieces), (to, _))| Change::Price {
                product_id,
                from: *from,
                to: *to,
                pieces: *pieces,
            })
            .collect()
        } else {
            pieces(product_id, &was.lots, &is.lots)
        }
    };
    let amount = |line: &EditedLine<'_>| amount_of(line.document.get("amount"), "amount of a line");
    let by: Money = changes.iter().map(|change| effect(change).1).sum();
    let (was, is) = (amount(was)?, amount(is)?);
    if is != was && is != was + by {
        return refused(
            "line",
            format!(
                "the amount of the line of product {product_id} follows from its pieces and prices: change those, or the total"
            ),
        );
    }
    Ok(changes)
}

/// A line has more pieces at its newest price, or fewer, of which the newest leave first.
fn by_quantity(product_id: i64, was: &EditedLine<'_>, quantity: u64) -> Result<Vec<Change>, Refusal> {
    let mut lots = was.lots.clone();
    if quantity > was.quantity {
        let Some(newest) = lots.last_mut() else {
            return refused(
                "line",
                format!("the line of product {product_id} is empty, so new pieces need a price"),
            );
        };
        newest.1 += quantity - was.quantity;
    }
    let mut surplus = was.quantity.saturating_sub(quantity);
    for lot in lots.iter_mut().rev() {
        let taken = surplus.min(lot.1);
        lot.1 -= taken;
        surplus -= taken;
    }
    Ok(pieces(product_id, &was.lots, &lots))
}

/// What came and left at each price, what left first.
fn pieces(product_id: i64, was: &Lots, is: &Lots) -> Vec<Change> {
    let mut by: BTreeMap<Money, i64> = BTreeMap::new();
    let signed = |quantity: u64| i64::try_from(quantity).unwrap_or(i64::MAX);
    for (price, quantity) in was {
        *by.entry(*price).or_default() -= signed(*quantity);
    }
    for (price, quantity) in is {
        *by.entry(*price).or_default() += signed(*quantity);
    }
    let mut by: Vec<(Money, i64)> = by.into_iter().filter(|(_, by)| *by != 0).collect();
    by.sort_by_key(|(_, by)| *by > 0);
    by.into_iter()
        .map(|(price, by)| Change::Pieces { product_id, price, by })
        .collect()
}

fn lines(document: &Document) -> Result<BTreeMap<i64, EditedLine<'_>>, Refusal> {
    let unreadable = || Refusal {
        code: "line",
        reason: "lines is a list of lines with product_id, quantity and prices; no line is added by a correction"
            .to_owned(),
    };
    let mut lines = BTreeMap::new();
    for line in document.get_array("lines").map_err(|_| unreadable())? {
        let line = line.as_document().ok_or_else(unreadable)?;
        let number = |document: &Document, field: &str| {
            let number = whole(document.get(field))?;
            u64::try_from(number).ok().filter(|number| *number <= 1_000_000)
        };
        let product_id = whole(line.get("product_id")).and_then(|id| i64::try_from(id).ok());
        let product_id = product_id.ok_or_else(unreadable)?;
        let quantity = number(line, "quantity").ok_or_else(|| Refusal {
            code: "line",
            reason: format!(
                "the quantity of the line of product {product_id} must be a whole number from 0 to 1000000"
            ),
        })?;
        let mut lots = Lots::new();
        for lot in line.get_array("prices").map_err(|_| unreadable())? {
            let lot = lot.as_document().ok_or_else(unreadable)?;
            let price = amount_of(lot.get("price"), "price")?;
            if price.is_negative() {
                return refused("price", "a price must not be below 0");
            }
            lots.push((price, number(lot, "quantity").ok_or_else(unreadable)?));
        }
        let line = EditedLine {
            document: line,
            quantity,
            lots,
        };
        if lines.insert(product_id, line).is_some() {
            return refused("line", format!("there are two lines of product {product_id}"));
        }
    }
    Ok(lines)
}

/// A whole number, whatever type the editor gave it.
fn whole(value: Option<&Bson>) -> Option<i128> {
    match value? {
        Bson::Int32(number) => Some(i128::from(*number)),
        Bson::Int64(number) => Some(i128::from(*number)),
        Bson::Double(number) if number.fract() == 0.0 => format!("{number}").parse().ok(),
        Bson::Decimal128(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// An amount, whatever type the editor gave it.
fn amount_of(value: Option<&Bson>, field: &str) -> Result<Money, Refusal> {
    let read = match value {
        Some(Bson::Decimal128(decimal)) => money(*decimal),
        Some(Bson::Double(number)) => Money::parse_sum(&format!("{number}")).map_err(|error| error.to_string()),
        Some(Bson::Int32(number)) => Ok(Money::from_units(i128::from(*number) * 10_000)),
        Some(Bson::Int64(number)) => Ok(Money::from_units(i128::from(*number) * 10_000)),
        _ => Err("must be a number".to_owned()),
    };
    read.or_else(|error| refused("money", format!("{field}: {error}")))
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Decimal128, doc};

    use super::*;

    fn decimal(text: &str) -> Decimal128 {
        text.parse().unwrap()
    }

    fn dollars(text: &str) -> Money {
        Money::parse(text).unwrap()
    }

    /// Three pieces of product 5 at 3.50, two of product 6 at 2 and one more at 2.25.
    fn before() -> Document {
        doc! {
            "status": "open", "item_count": 6_i64, "total": decimal("16.75"), "note": null, "sequence": 9_i64,
            "lines": [
                { "product_id": 5_i64, "product_name": "Apples", "quantity": 3_i64, "amount": decimal("10.5"),
                  "prices": [{ "price": decimal("3.5"), "quantity": 3_i64 }] },
                { "product_id": 6_i64, "product_name": "Pears", "quantity": 3_i64, "amount": decimal("6.25"),
                  "prices": [{ "price": decimal("2"), "quantity": 2_i64 }, { "price": decimal("2.25"), "quantity": 1_i64 }] },
            ],
        }
    }

    fn edited(edit: impl FnOnce(&mut Document)) -> Result<Vec<Change>, Refusal> {
        let before = before();
        let mut after = before.clone();
        edit(&mut after);
        difference(Some(&before), Some(&after))
    }

    fn line(document: &mut Document, place: usize) -> &mut Document {
        document.get_array_mut("lines").unwrap()[place]
            .as_document_mut()
            .unwrap()
    }

    fn lot(document: &mut Document, place: usize, lot: usize) -> &mut Document {
        line(document, place).get_array_mut("prices").unwrap()[lot]
            .as_document_mut()
            .unwrap()
    }

    fn put(product_id: i64, price: &str, by: i64) -> Change {
        Change::Pieces {
            product_id,
            price: dollars(price),
            by,
        }
    }

    #[test]
    fn what_a_person_may_change_is_a_difference() {
        let same: Vec<Change> = Vec::new();
        assert_eq!(edited(|_| {}), Ok(same));
        // As Compass writes numbers.
        assert_eq!(
            edited(|after| drop(line(after, 0).insert("quantity", 5_i32))),
            Ok(vec![put(5, "3.5", 2)])
        );
        assert_eq!(
            edited(|after| drop(line(after, 0).insert("quantity", 1.0))),
            Ok(vec![put(5, "3.5", -2)])
        );
        assert_eq!(
            edited(|after| drop(line(after, 1).insert("quantity", 1_i64))),
            Ok(vec![put(6, "2", -1), put(6, "2.25", -1)])
        );
        let price = |from: &str, to: &str, product_id, pieces| Change::Price {
            product_id,
            from: dollars(from),
            to: dollars(to),
            pieces,
        };
        assert_eq!(
            edited(|after| drop(lot(after, 0, 0).insert("price", 3.1))),
            Ok(vec![price("3.5", "3.1", 5, 3)])
        );
        assert_eq!(
            edited(|after| drop(lot(after, 1, 0).insert("quantity", 4))),
            Ok(vec![put(6, "2", 2)])
        );
        assert_eq!(
            edited(|after| drop(after.get_array_mut("lines").unwrap().remove(1))),
            Ok(vec![put(6, "2", -2), put(6, "2.25", -1)])
        );
        assert_eq!(
            edited(|after| drop(after.insert("total", decimal("16.5")))),
            Ok(vec![Change::Total { by: dollars("-0.25") }])
        );
        let to = |to| Change::Status { from: Status::Open, to };
        assert_eq!(
            edited(|after| drop(after.insert("status", "paid"))),
            Ok(vec![to(Status::Paid)])
        );
    }

    #[test]
    fn what_follows_from_an_edit_may_be_edited_along() {
        let consistent = |after: &mut Document| {
            line(after, 0).insert("quantity", 2_i64);
            lot(after, 0, 0).insert("quantity", 2_i64);
            line(after, 0).insert("amount", decimal("7"));
            after.insert("item_count", 5_i64);
            after.insert("total", decimal("13.25"));
        };
        assert_eq!(edited(consistent), Ok(vec![put(5, "3.5", -1)]));
        let and_a_discount = |after: &mut Document| {
            consistent(after);
            after.insert("total", decimal("13"));
        };
        assert_eq!(
            edited(and_a_discount),
            Ok(vec![put(5, "3.5", -1), Change::Total { by: dollars("-0.25") }])
        );
    }

    #[test]
    fn what_no_person_may_change_is_refused_whole() {
        let code = |edit: fn(&mut Document)| edited(edit).unwrap_err().code;
        assert_eq!(code(|after| drop(after.insert("note", "hi"))), "field");
        assert_eq!(code(|after| drop(after.insert("sequence", 10_i64))), "field");
        assert_eq!(code(|after| drop(after.remove("lines"))), "line");
        assert_eq!(code(|after| drop(after.insert("item_count", 7_i64))), "item_count");
        assert_eq!(code(|after| drop(after.insert("status", "abandoned"))), "status");
        assert_eq!(code(|after| drop(after.insert("total", "much"))), "money");
        assert_eq!(code(|after| drop(after.insert("total", -0.01))), "negative_total");
        assert_eq!(code(|after| drop(line(after, 0).insert("quantity", -1))), "line");
        assert_eq!(code(|after| drop(line(after, 0).insert("quantity", 1.5))), "line");
        assert_eq!(
            code(|after| drop(line(after, 0).insert("product_name", "Plums"))),
            "line"
        );
        assert_eq!(code(|after| drop(line(after, 0).insert("amount", 1))), "line");
        assert_eq!(code(|after| drop(line(after, 0).insert("product_id", 7_i64))), "line");
        assert_eq!(code(|after| drop(line(after, 1).insert("product_id", 5_i64))), "line");
        assert_eq!(code(|after| drop(lot(after, 0, 0).insert("price", -1))), "price");
        let both = |after: &mut Document| {
            line(after, 0).insert("quantity", 2_i64);
            after.insert("note", "and this");
        };
        assert_eq!(code(both), "field");
        assert_eq!(difference(None, Some(&before())).unwrap_err().code, "inserted");
        assert_eq!(difference(Some(&before()), None).unwrap_err().code, "deleted");
    }
}
