//! Any order and any repetition of a session's events gives the same basket, and its totals are
//! those of an oracle that shares no code with the fold.

use proptest::prelude::*;
use time::{Duration, OffsetDateTime};

use super::*;
use crate::core::event::Strictness;
use crate::core::money::Money;

const SHOP: &str = "123e4567-e89b-42d3-a456-426614174000";
const SESSION: &str = "4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94";

/// One action in a few words: number, second of the visit, word, product, price in cents, pieces, claimed cents.
#[derive(Debug, Clone, Copy)]
struct Act(i64, i64, &'static str, i64, i64, u32, i64);

fn event(act: Act) -> Event {
    let Act(action_id, second, action, product_id, cents, quantity, claimed) = act;
    let time = OffsetDateTime::from_unix_timestamp(1_702_895_400).unwrap() + Duration::seconds(second);
    let body = format!(
        r#"{{"session_id":"{SESSION}","shop_id":"{SHOP}","shopper_id":"{SESSION}","action_id":{action_id},
            "create_time":"{}","action":"{action}","product_name":"p{product_id}","product_id":{product_id},
            "product_price":{}e-2,"UPC":"u","category_id":"c","basket_total":{}e-2,"quantity":{quantity}}}"#,
        crate::core::event::rfc3339(time),
        cents,
        claimed
    );
    Event::parse(body.as_bytes(), Strictness::Strict).unwrap()
}

fn recorded(sequence: u64, act: Act) -> Recorded {
    Recorded {
        sequence,
        recorded_at: OffsetDateTime::UNIX_EPOCH,
        event: event(act),
    }
}

fn basket_id() -> BasketId {
    event(Act(1, 0, "ADD", 1, 1, 1, 1)).basket()
}

fn folded(meaning: ActionIdMeaning, events: impl IntoIterator<Item = Recorded>) -> Basket {
    let mut basket = Basket::new(basket_id(), meaning);
    for event in events {
        basket.apply(event);
    }
    basket.settle();
    basket
}

fn in_order(acts: &[Act]) -> Vec<Recorded> {
    (1..)
        .zip(acts)
        .map(|(sequence, act)| recorded(sequence, *act))
        .collect()
}

fn abandonment(sequence: u64, after: u64) -> Recorded<JournalEvent> {
    Recorded {
        sequence,
        recorded_at: OffsetDateTime::UNIX_EPOCH,
        event: JournalEvent::Abandonment(Abandonment {
            basket: basket_id(),
            after,
            idle_since: OffsetDateTime::UNIX_EPOCH,
        }),
    }
}

fn action(sequence: u64, act: Act) -> Recorded<JournalEvent> {
    let recorded = recorded(sequence, act);
    recorded.with(JournalEvent::Action(recorded.event.clone()))
}

fn put_all(events: impl IntoIterator<Item = Recorded<JournalEvent>>) -> Basket {
    let mut basket = Basket::new(basket_id(), ActionIdMeaning::Auto);
    for event in events {
        basket.put(event);
        basket.settle();
        basket.saved();
    }
    basket
}

#[test]
fn a_basket_is_abandoned_until_the_shopper_comes_back() {
    let apple = |sequence: u64, number: i64| action(sequence, Act(number, number, "ADD", 5, 350, 1, 350 * number));
    let basket = put_all([apple(1, 1), abandonment(7, 1)]);
    assert_eq!(
        (basket.status(), basket.sequence(), basket.version()),
        (Status::Abandoned, 7, 2)
    );
    assert!(basket.holds(7) && basket.holds(1) && !basket.holds(2));
    assert_eq!(
        basket.state().total,
        Money::parse("3.5").unwrap(),
        "what is in it stays in it"
    );

    let back = put_all([apple(1, 1), abandonment(7, 1), apple(9, 2)]);
    assert_eq!(back.status(), Status::Open);
    assert!(back.is_void(&back.abandonments()[0].event));
    assert_eq!(
        put_all([apple(1, 1), abandonment(7, 1), apple(9, 2), abandonment(12, 9)]).status(),
        Status::Abandoned
    );
    // The shopper was faster: the abandonment was on its way when the action was recorded.
    assert_eq!(
        put_all([apple(1, 1), apple(6, 2), abandonment(7, 1)]).status(),
        Status::Open
    );
    let paid = put_all([
        apple(1, 1),
        abandonment(7, 1),
        action(8, Act(2, 2, "CHECKOUT", 0, 0, 1, 350)),
    ]);
    assert_eq!(paid.status(), Status::Paid);
    let as_of = paid.as_of(7);
    assert_eq!((as_of.status(), as_of.sequence()), (Status::Abandoned, 7));
    assert_eq!(put_all([abandonment(7, 1)]).status(), Status::Abandoned);
}

#[test]
fn of_abandonments_after_one_event_the_first_in_the_journal_counts() {
    let mut basket = put_all([abandonment(7, 1)]);
    assert_eq!(basket.put(abandonment(7, 1)), Applied::Duplicate);
    assert_eq!(basket.put(abandonment(8, 1)), Applied::Duplicate);
    assert!(!basket.changes().marks);
    assert_eq!(basket.put(abandonment(3, 1)), Applied::Counted);
    assert!(basket.changes().marks);
    assert_eq!(basket.abandonments().len(), 1);
    assert!(basket.holds(3) && !basket.holds(7));
}

fn correction(sequence: u64, id: u128, changes: Vec<Change>) -> Recorded<JournalEvent> {
    Recorded {
        sequence,
        recorded_at: OffsetDateTime::UNIX_EPOCH,
        event: JournalEvent::Correction(Correction {
            basket: basket_id(),
            id: uuid::Uuid::from_u128(id),
            author: "Ada".to_owned(),
            reason: "scanned twice".to_owned(),
            base_sequence: sequence - 1,
            changes,
        }),
    }
}

fn dollars(text: &str) -> Money {
    Money::parse(text).unwrap()
}

/// The basket with what a person asked for, taken at its newest state.
fn corrected(basket: &mut Basket, sequence: u64, id: u128, asked: &Asked) {
    let changes = basket.plan(asked).unwrap();
    assert_eq!(basket.put(correction(sequence, id, changes)), Applied::Counted);
    basket.settle();
}

fn line_of(basket: &Basket, product_id: i64) -> (u64, Money) {
    let line = basket
        .state()
        .lines
        .iter()
        .find(|line| line.product_id == product_id)
        .unwrap();
    (line.quantity, line.amount)
}

#[test]
fn a_correction_is_a_difference_on_which_later_actions_build() {
    let mut basket = put_all([
        action(1, Act(1, 1, "ADD", 5, 350, 3, 1050)),
        action(2, Act(2, 2, "ADD", 6, 200, 1, 1250)),
    ]);
    corrected(
        &mut basket,
        3,
        1,
        &Asked::Quantity {
            product_id: 5,
            quantity: 2,
            price: None,
        },
    );
    assert_eq!(
        (line_of(&basket, 5), basket.state().total),
        ((2, dollars("7")), dollars("9"))
    );
    assert_eq!(
        basket.state().divergence,
        None,
        "the app knows nothing of it and was right before"
    );
    corrected(
        &mut basket,
        4,
        2,
        &Asked::Price {
            product_id: 5,
            price: dollars("3"),
        },
    );
    assert_eq!(line_of(&basket, 5), (2, dollars("6")));
    corrected(&mut basket, 5, 3, &Asked::Adjustment { by: dollars("-0.5") });
    assert_eq!(
        (basket.state().total, basket.state().adjustment),
        (dollars("7.5"), dollars("-0.5"))
    );

    // The shopper goes on with what the app knows, and is right again.
    for event in [
        action(6, Act(3, 3, "ADD", 5, 350, 1, 1600)),
        action(7, Act(4, 4, "REMOVE", 6, 200, 1, 1400)),
    ] {
        basket.put(event);
        basket.settle();
    }
    assert_eq!((line_of(&basket, 5), line_of(&basket, 6).0), ((3, dollars("9.5")), 0));
    assert_eq!((basket.state().total, basket.state().divergence), (dollars("9"), None));
    assert_eq!((basket.version(), basket.sequence()), (7, 7));
    basket.put(action(8, Act(5, 5, "CHECKOUT", 0, 0, 1, 900)));
    basket.settle();
    assert_eq!(
        basket.state().divergence,
        None,
        "an app that heard of the corrections is right as well"
    );
    basket.put(action(9, Act(6, 6, "CHECKOUT", 0, 0, 1, 901)));

    let before = basket.as_of(3);
    assert_eq!(
        (line_of(&before, 5), before.state().total),
        ((2, dollars("7")), dollars("9"))
    );
}

#[test]
fn two_corrections_of_one_line_add_up_and_each_can_be_undone_and_done_again() {
    let mut basket = put_all([action(1, Act(1, 1, "ADD", 5, 350, 3, 1050))]);
    let add = |by| {
        vec![Change::Pieces {
            product_id: 5,
            price: dollars("3.5"),
            by,
        }]
    };
    // Both saw three pieces.
    basket.put(correction(2, 1, add(2)));
    basket.put(correction(3, 2, add(1)));
    basket.settle();
    assert_eq!(line_of(&basket, 5), (6, dollars("21")));
    let id = uuid::Uuid::from_u128;
    corrected(&mut basket, 4, 3, &Asked::Undo { correction: id(1) });
    assert_eq!(line_of(&basket, 5), (4, dollars("14")));
    assert!(!basket.counts(id(1)) && basket.counts(id(2)) && basket.counts(id(3)));
    assert_eq!(
        basket.plan(&Asked::Undo { correction: id(1) }),
        Err(PlanError::Undone(id(1)))
    );
    corrected(&mut basket, 5, 4, &Asked::Undo { correction: id(3) });
    assert_eq!(line_of(&basket, 5), (6, dollars("21")), "what was undone counts again");
    assert_eq!(basket.as_of(4).state().total, dollars("14"));
}

#[test]
fn a_visit_that_was_ended_by_mistake_goes_on() {
    let mut basket = put_all([
        action(1, Act(1, 1, "ADD", 5, 350, 1, 350)),
        action(2, Act(2, 2, "CANCEL", 0, 0, 1, 0)),
    ]);
    corrected(&mut basket, 3, 1, &Asked::Status { status: Status::Open });
    assert_eq!(basket.status(), Status::Open);
    basket.put(action(4, Act(3, 3, "ADD", 6, 200, 1, 550)));
    basket.settle();
    assert_eq!(
        (basket.state().total, basket.state().finding_count),
        (dollars("5.5"), 0)
    );
    // What was recorded before the correction and came late is still of the time before it.
    basket.put(action(5, Act(4, 4, "CHECKOUT", 0, 0, 1, 550)));
    basket.settle();
    assert_eq!(basket.status(), Status::Paid);

    let idle = put_all([action(1, Act(1, 1, "ADD", 5, 350, 1, 350)), abandonment(4, 1)]);
    assert_eq!(
        idle.plan(&Asked::Status {
            status: Status::Abandoned
        }),
        Err(PlanError::NoStatus)
    );
    let mut idle = idle;
    corrected(&mut idle, 5, 1, &Asked::Status { status: Status::Open });
    assert_eq!(idle.status(), Status::Open, "a person has looked after it");
    idle.put(abandonment(9, 5));
    assert_eq!(idle.status(), Status::Abandoned);
    // Another kind of correction leaves it as it is.
    corrected(&mut idle, 10, 2, &Asked::Adjustment { by: dollars("1") });
    assert_eq!(idle.status(), Status::Abandoned);
}

#[test]
fn of_what_is_no_longer_there_as_much_changes_as_is_there() {
    let mut basket = put_all([action(1, Act(1, 1, "ADD", 5, 350, 4, 1400))]);
    let price = basket
        .plan(&Asked::Price {
            product_id: 5,
            price: dollars("3"),
        })
        .unwrap();
    let none = basket
        .plan(&Asked::Quantity {
            product_id: 5,
            quantity: 0,
            price: None,
        })
        .unwrap();
    // Before either was recorded, the shopper had put three of them back.
    basket.put(action(2, Act(2, 2, "REMOVE", 5, 350, 3, 350)));
    basket.put(correction(3, 1, price));
    basket.settle();
    assert_eq!(line_of(&basket, 5), (1, dollars("3")));
    basket.put(correction(4, 2, none));
    basket.settle();
    assert_eq!(
        (line_of(&basket, 5), basket.state().total),
        ((0, Money::ZERO), Money::ZERO)
    );
    let again = Asked::Quantity {
        product_id: 5,
        quantity: 2,
        price: None,
    };
    assert_eq!(basket.plan(&again), Err(PlanError::NoPrice(5)));
    corrected(
        &mut basket,
        5,
        3,
        &Asked::Quantity {
            product_id: 5,
            quantity: 2,
            price: Some(dollars("1.25")),
        },
    );
    assert_eq!(line_of(&basket, 5), (2, dollars("2.5")));
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let basket = put_all([action(1, Act(1, 1, "ADD", 5, 350, 2, 700))]);
    let id = uuid::Uuid::from_u128(9);
    for (asked, error) in [
        (
            Asked::Quantity {
                product_id: 5,
                quantity: 2,
                price: None,
            },
            PlanError::Nothing,
        ),
        (
            Asked::Quantity {
                product_id: 6,
                quantity: 2,
                price: None,
            },
            PlanError::NoLine(6),
        ),
        (
            Asked::Quantity {
                product_id: 5,
                quantity: 1_000_001,
                price: None,
            },
            PlanError::TooMany,
        ),
        (
            Asked::Price {
                product_id: 5,
                price: dollars("3.5"),
            },
            PlanError::Nothing,
        ),
        (
            Asked::Price {
                product_id: 5,
                price: dollars("-3.5"),
            },
            PlanError::NegativePrice,
        ),
        (Asked::Adjustment { by: Money::ZERO }, PlanError::Nothing),
        (
            Asked::Adjustment { by: dollars("-7.5") },
            PlanError::NegativeTotal(dollars("-0.5")),
        ),
        (Asked::Status { status: Status::Open }, PlanError::Nothing),
        (Asked::Undo { correction: id }, PlanError::NoCorrection(id)),
    ] {
        assert_eq!(basket.plan(&asked), Err(error), "{asked:?}");
    }
}

/// Everything that must not depend on order or repetition.
#[test]
fn a_proposal_is_decided_for_the_basket_that_its_author_saw() {
    use crate::core::event::Proposal;

    let proposal = |base_sequence, asked| Proposal {
        author: "Ada".to_owned(),
        reason: "scanned twice".to_owned(),
        base_sequence,
        asked,
    };
    let two = Asked::Quantity {
        product_id: 5,
        quantity: 2,
        price: None,
    };
    let id = uuid::Uuid::from_u128(7);
    let mut basket = put_all([action(3, Act(1, 1, "ADD", 5, 350, 3, 1050))]);
    let taken = vec![Change::Pieces {
        product_id: 5,
        price: dollars("3.5"),
        by: -1,
    }];
    for (base, noted) in [(None, 3), (Some(3), 3), (Some(8), 8)] {
        let plan = basket.decide(id, &proposal(base, two.clone()));
        let expected = Plan {
            base_sequence: noted,
            changes: taken.clone(),
        };
        assert_eq!(plan, Ok(expected));
    }
    basket.put(action(9, Act(2, 2, "ADD", 6, 200, 1, 1250)));
    basket.put(action(12, Act(3, 3, "CHECKOUT", 0, 0, 1, 1250)));
    basket.settle();
    let refused = basket.decide(id, &proposal(Some(3), two.clone())).unwrap_err();
    assert_eq!(refused.word(), "moved_on");
    assert_eq!(
        refused.to_string(),
        "the basket has 2 events after 3 and is at 12; it is paid and was open; its total is 12.5 and was 10.5; of product 6 it has 1 and had 0"
    );
    assert_eq!(basket.since(12), None);

    // What is off the total must not make it negative in another way.
    corrected(&mut basket, 13, 1, &Asked::Adjustment { by: dollars("-5") });
    let none = Asked::Quantity {
        product_id: 5,
        quantity: 0,
        price: None,
    };
    let refused = basket.decide(id, &proposal(None, none)).unwrap_err();
    assert_eq!(refused, Refused::Plan(PlanError::NegativeTotal(dollars("-3"))));
    basket.park(14);
    assert_eq!(
        basket.decide(id, &proposal(None, two)).unwrap_err().word(),
        "basket_parked"
    );
}

fn picture(basket: &Basket) -> (Vec<Recorded>, Vec<Recorded>, Fold, u64) {
    (
        basket.actions().to_vec(),
        basket.conflicts().to_vec(),
        basket.state().clone(),
        basket.sequence(),
    )
}

fn check(acts: &[Act], total_cents: i64, items: u64, findings: &[FindingKind]) -> Basket {
    let basket = folded(ActionIdMeaning::Auto, in_order(acts));
    assert_eq!(
        basket.state().total,
        Money::from_units(i128::from(total_cents) * 100),
        "{acts:?}"
    );
    assert_eq!(basket.state().item_count, items, "{acts:?}");
    assert_eq!(
        basket
            .state()
            .findings
            .iter()
            .map(|finding| finding.kind)
            .collect::<Vec<_>>(),
        findings,
        "{acts:?}"
    );
    basket
}

#[test]
fn a_visit_folds_to_what_is_in_the_basket() {
    use FindingKind::{AfterEnd, PriceChanged, RemovedAbsent, RepeatedActionId, UnknownAction};
    check(&[], 0, 0, &[]);
    check(
        &[Act(1, 0, "ADD", 5, 350, 1, 350), Act(2, 1, "add", 5, 350, 2, 1050)],
        1050,
        3,
        &[],
    );
    check(
        &[Act(1, 0, "ADD", 5, 350, 2, 700), Act(2, 1, "REMOVE", 5, 350, 1, 350)],
        350,
        1,
        &[],
    );
    check(&[Act(1, 0, "REMOVE", 5, 350, 1, 0)], 0, 0, &[RemovedAbsent]);
    check(
        &[Act(1, 0, "ADD", 5, 350, 1, 350), Act(2, 1, "REMOVE", 5, 350, 3, 0)],
        0,
        0,
        &[RemovedAbsent],
    );
    check(
        &[Act(1, 0, "ADD", 5, 350, 1, 350), Act(2, 1, "ADD", 5, 300, 1, 650)],
        650,
        2,
        &[PriceChanged],
    );
    check(
        &[Act(1, 0, "ADD", 5, 350, 1, 350), Act(2, 1, "REMOVE", 5, 300, 1, 0)],
        0,
        0,
        &[PriceChanged],
    );
    check(
        &[
            Act(1, 0, "ADD", 5, 350, 1, 350),
            Act(2, 1, "CHECKOUT", 0, 0, 1, 350),
            Act(3, 2, "ADD", 5, 350, 1, 700),
        ],
        350,
        1,
        &[AfterEnd],
    );
    check(&[Act(1, 0, "LOOK", 5, 350, 1, 0)], 0, 0, &[UnknownAction]);
    check(
        &[Act(7, 0, "ADD", 5, 350, 1, 350), Act(7, 1, "ADD", 5, 350, 1, 700)],
        700,
        2,
        &[RepeatedActionId],
    );
}

#[test]
fn the_verdict_says_since_when_and_by_how_much() {
    let basket = check(
        &[
            Act(1, 0, "ADD", 5, 350, 1, 350),
            Act(2, 1, "ADD", 5, 350, 1, 650),
            Act(3, 2, "ADD", 5, 350, 1, 1000),
        ],
        1050,
        3,
        &[],
    );
    let divergence = basket.state().divergence.unwrap();
    assert_eq!(
        (divergence.since_action_id, divergence.since_sequence, divergence.by),
        (2, 2, Money::from_units(-5_000))
    );
    let healed = check(
        &[Act(1, 0, "ADD", 5, 350, 1, 999), Act(2, 1, "ADD", 5, 350, 1, 700)],
        700,
        2,
        &[],
    );
    assert_eq!(healed.state().divergence, None);
}

#[test]
fn a_late_action_is_put_where_it_belongs() {
    let late = [
        Act(1, 0, "ADD", 5, 350, 1, 350),
        Act(3, 2, "CHECKOUT", 0, 0, 1, 550),
        Act(2, 1, "ADD", 6, 200, 1, 550),
    ];
    let basket = check(&late, 550, 2, &[]);
    assert_eq!(basket.state().divergence, None);
    assert_eq!(basket.status(), Status::Paid);
    let without = check(&late[..2], 350, 1, &[]);
    assert_eq!(without.state().missing(), [2]);
    assert!(basket.state().missing().is_empty());
}

#[test]
fn an_action_id_may_be_the_code_of_its_kind() {
    let acts = [
        Act(101, 0, "ADD", 5, 350, 1, 350),
        Act(101, 1, "ADD", 6, 200, 1, 550),
        Act(102, 2, "REMOVE", 5, 350, 1, 200),
        Act(101, 3, "ADD", 7, 100, 1, 300),
        Act(102, 4, "REMOVE", 6, 200, 1, 100),
        Act(103, 5, "CHECKOUT", 0, 0, 1, 100),
    ];
    for meaning in [ActionIdMeaning::Auto, ActionIdMeaning::Code] {
        let basket = folded(meaning, in_order(&acts));
        assert_eq!(basket.state().total, Money::from_units(10_000));
        assert_eq!((basket.status(), basket.state().divergence), (Status::Paid, None));
        assert!(basket.state().missing().is_empty());
    }
    assert_eq!(folded(ActionIdMeaning::Code, in_order(&acts)).state().finding_count, 0);
    // One finding for each number that repeats, not for each repetition.
    assert_eq!(folded(ActionIdMeaning::Auto, in_order(&acts)).state().finding_count, 2);
}

#[test]
fn far_apart_ids_are_not_missing_actions() {
    let basket = check(
        &[
            Act(1, 0, "ADD", 5, 350, 1, 350),
            Act(1_000_000, 1, "ADD", 5, 350, 1, 700),
        ],
        700,
        2,
        &[],
    );
    assert!(basket.state().missing().is_empty());
    check(
        &[
            Act(i64::MIN, 0, "ADD", 5, 350, 1, 350),
            Act(i64::MAX, 1, "ADD", 5, 350, 1, 700),
        ],
        700,
        2,
        &[],
    );
}

#[test]
fn the_first_copy_in_the_journal_counts_and_another_body_is_a_finding() {
    let acts = [
        Act(1, 0, "ADD", 5, 350, 1, 350),
        Act(1, 0, "ADD", 5, 400, 1, 400),
        Act(1, 0, "ADD", 5, 350, 1, 350),
    ];
    let basket = check(&acts, 350, 1, &[FindingKind::ConflictingCopy]);
    assert_eq!((basket.version(), basket.sequence()), (2, 2));
}

#[test]
fn a_full_basket_takes_no_more() {
    let mut basket = Basket::new(basket_id(), ActionIdMeaning::Auto);
    for number in 0..10_000 {
        assert_eq!(
            basket.apply(recorded(
                number + 1,
                Act(i64::try_from(number).unwrap(), 0, "ADD", 1, 1, 1, 1)
            )),
            Applied::Counted
        );
    }
    assert_eq!(
        basket.apply(recorded(10_001, Act(10_000, 0, "ADD", 1, 1, 1, 1))),
        Applied::Full
    );
    assert_eq!(
        basket.apply(recorded(10_002, Act(9_999, 0, "ADD", 1, 1, 1, 1))),
        Applied::Duplicate
    );
}

#[test]
fn long_texts_fill_a_basket_too() {
    let mut basket = Basket::new(basket_id(), ActionIdMeaning::Auto);
    let long = |number: i64| {
        let mut recorded = recorded(u64::try_from(number).unwrap(), Act(number, 0, "ADD", 1, 1, 1, 1));
        recorded.event.product_name = Some("x".repeat(15_000));
        recorded
    };
    let taken = (1..=1_000)
        .take_while(|number| basket.apply(long(*number)) == Applied::Counted)
        .count();
    assert_eq!(taken, TEXT_BYTES_MAX / 15_002);
    assert_eq!(basket.apply(long(1)), Applied::Duplicate);
}

fn any_act() -> impl Strategy<Value = Act> {
    let word = prop_oneof![6 => Just("ADD"), 3 => Just("REMOVE"), 1 => Just("LOOK"), 1 => Just("CHECKOUT"), 1 => Just("CANCEL")];
    (
        1_i64..12,
        0_i64..4,
        word,
        1_i64..4,
        prop_oneof![Just(100_i64), Just(250)],
        1_u32..4,
        0_i64..3,
    )
        .prop_map(|(id, second, word, product, cents, quantity, claimed)| {
            Act(id, second, word, product, cents, quantity, claimed * 100)
        })
}

/// A plain reading of DESIGN's rules: each piece is an entry with its price.
fn oracle(events: &[Recorded], by_time: bool) -> (i128, usize) {
    let mut firsts: Vec<&Recorded> = Vec::new();
    let mut journal: Vec<&Recorded> = events.iter().collect();
    journal.sort_by_key(|recorded| recorded.sequence);
    for recorded in journal {
        let same = |other: &&Recorded| {
            other.event.action_id == recorded.event.action_id && other.event.create_time == recorded.event.create_time
        };
        if !firsts.iter().any(same) {
            firsts.push(recorded);
        }
    }
    firsts.sort_by_key(|recorded| {
        let (time, id) = (recorded.event.create_time, recorded.event.action_id);
        if by_time { (Some(time), id) } else { (None, id) }
    });
    let mut pieces: Vec<(i64, i128)> = Vec::new();
    for Recorded { event, .. } in firsts {
        let (product, price) = (event.product_id.unwrap(), event.product_price.unwrap().units());
        match event.action.as_str() {
            "ADD" => pieces.extend(std::iter::repeat_n((product, price), event.quantity as usize)),
            "REMOVE" => {
                for _ in 0..event.quantity {
                    let same_price = pieces.iter().position(|piece| *piece == (product, price));
                    // The newest price is that of the last lot to be opened: the distinct prices in the order they came.
                    let mut lots: Vec<i128> = Vec::new();
                    for piece in pieces.iter().filter(|piece| piece.0 == product) {
                        if !lots.contains(&piece.1) {
                            lots.push(piece.1);
                        }
                    }
                    let newest = lots
                        .last()
                        .and_then(|lot| pieces.iter().position(|piece| *piece == (product, *lot)));
                    if let Some(place) = same_price.or(newest) {
                        pieces.remove(place);
                    }
                }
            }
            "CHECKOUT" | "CANCEL" => break,
            _ => {}
        }
    }
    (pieces.iter().map(|piece| piece.1).sum(), pieces.len())
}

/// Differences as a correction may have them; undos are of any correction of the same basket.
fn any_changes() -> impl Strategy<Value = Vec<Change>> {
    let price = || prop::sample::select(vec!["1", "3.5", "0.0001"]).prop_map(dollars);
    let change = prop_oneof![
        (0_i64..3, price(), -3_i64..4).prop_map(|(product_id, price, by)| Change::Pieces { product_id, price, by }),
        (0_i64..3, price(), price(), 0_u64..4).prop_map(|(product_id, from, to, pieces)| Change::Price {
            product_id,
            from,
            to,
            pieces
        }),
        (-9_i128..9).prop_map(|by| Change::Total {
            by: Money::from_units(by * 100)
        }),
        prop::sample::select(vec![Status::Open, Status::Paid, Status::Cancelled])
            .prop_map(|to| Change::Status { from: Status::Open, to }),
        (1_u128..6).prop_map(|id| Change::Undo {
            correction: uuid::Uuid::from_u128(id)
        }),
    ];
    prop::collection::vec(change, 1..3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_and_any_repetition_gives_the_same_basket(
        acts in prop::collection::vec(any_act(), 0..14),
        shuffle in prop::collection::vec(any::<prop::sample::Index>(), 40),
        meaning in prop_oneof![Just(ActionIdMeaning::Auto), Just(ActionIdMeaning::Number), Just(ActionIdMeaning::Code)],
    ) {
        let events = in_order(&acts);
        let expected = folded(meaning, events.clone());
        let mut arrivals = Vec::new();
        if !events.is_empty() {
            arrivals.extend(shuffle.iter().map(|index| index.get(&events).clone()));
        }
        arrivals.extend(events.iter().rev().cloned());
        let shuffled = folded(meaning, arrivals.clone());
        prop_assert_eq!(picture(&shuffled), picture(&expected));

        // Settling after each event, as the projector does after each step, changes nothing.
        let mut stepwise = Basket::new(basket_id(), meaning);
        for event in arrivals {
            stepwise.apply(event);
            stepwise.settle();
            stepwise.saved();
        }
        prop_assert_eq!(picture(&stepwise), picture(&expected));

        let restored = Basket::restore(basket_id(), meaning, expected.actions().to_vec(), expected.conflicts().to_vec(), Vec::new(), Vec::new(), None);
        prop_assert_eq!(picture(&restored), picture(&expected));
    }

    #[test]
    fn abandonments_count_in_any_order_and_however_often(
        acts in prop::collection::vec(any_act(), 0..8),
        afters in prop::collection::vec(0_u64..12, 0..5),
        seed in any::<u64>(),
    ) {
        let mut events: Vec<_> = (1..).zip(&acts).map(|(place, act)| action(2 * place, *act)).collect();
        events.extend((1..).zip(&afters).map(|(place, after)| abandonment(2 * place + 1 + after, *after)));
        events.sort_by_key(|event| event.sequence);
        events.dedup_by_key(|event| event.sequence);
        let expected = put_all(events.clone());
        let last = expected.actions().iter().chain(expected.conflicts()).map(|event| event.sequence).max().unwrap_or(0);
        let idle = events.iter().any(|event| matches!(&event.event, JournalEvent::Abandonment(idle) if idle.after >= last));
        prop_assert_eq!(expected.status() == Status::Abandoned, idle && expected.state().ended.is_none());

        let mut arrivals = [events.clone(), events].concat();
        fastrand::Rng::with_seed(seed).shuffle(&mut arrivals);
        let shuffled = put_all(arrivals);
        prop_assert_eq!(picture(&shuffled), picture(&expected));
        prop_assert_eq!(shuffled.abandonments(), expected.abandonments());
        prop_assert_eq!(shuffled.status(), expected.status());
    }

    #[test]
    fn corrections_count_in_any_order_and_however_often(
        acts in prop::collection::vec(any_act(), 0..8),
        wishes in prop::collection::vec(any_changes(), 0..6),
        seed in any::<u64>(),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut events: Vec<_> = acts.iter().map(|act| action(0, *act)).collect();
        events.extend(wishes.iter().zip(1..).map(|(changes, id)| correction(1, id, changes.clone())));
        rng.shuffle(&mut events);
        for (event, sequence) in events.iter_mut().zip(1..) {
            event.sequence = sequence;
        }
        let expected = put_all(events.clone());
        let lines: Money = expected.state().lines.iter().map(|line| line.amount).sum();
        prop_assert_eq!(lines + expected.state().adjustment, expected.state().total);
        let explained = expected.explain();
        let of_lines: Money = explained.effects.iter().map(|effect| effect.amount)
            .chain(explained.corrections.iter().flat_map(|effect| effect.lines.iter().map(|line| line.2)))
            .sum();
        prop_assert_eq!(of_lines, lines);

        let mut arrivals = [events.clone(), events.clone()].concat();
        rng.shuffle(&mut arrivals);
        let shuffled = put_all(arrivals);
        prop_assert_eq!(picture(&shuffled), picture(&expected));
        prop_assert_eq!(shuffled.corrections(), expected.corrections());
        prop_assert_eq!(shuffled.status(), expected.status());

        // The past is the fold of the events that were there by then.
        let until = rng.usize(0..=events.len());
        let past = put_all(events[..until].to_vec());
        prop_assert_eq!(picture(&expected.as_of(until as u64)), picture(&past));
    }

    #[test]
    fn totals_are_those_of_the_oracle(acts in prop::collection::vec(any_act(), 0..14)) {
        let events = in_order(&acts);
        let basket = folded(ActionIdMeaning::Auto, events.clone());
        let mut identities: Vec<_> = events.iter().map(|event| (event.event.action_id, event.event.create_time)).collect();
        identities.sort();
        identities.dedup();
        let ids: std::collections::HashSet<_> = identities.iter().map(|identity| identity.0).collect();
        let (total, items) = oracle(&events, ids.len() < identities.len());
        prop_assert_eq!(basket.state().total.units(), total);
        prop_assert_eq!(basket.state().item_count, items as u64);
        let lines: Money = basket.state().lines.iter().map(|line| line.amount).sum();
        prop_assert_eq!(lines.units(), total);
    }

    #[test]
    fn the_effects_add_up_to_every_line_and_to_the_total(
        acts in prop::collection::vec(any_act(), 0..140),
        meaning in prop_oneof![Just(ActionIdMeaning::Auto), Just(ActionIdMeaning::Number), Just(ActionIdMeaning::Code)],
    ) {
        let basket = folded(meaning, in_order(&acts));
        let state = basket.state();
        let explanation = basket.explain();
        prop_assert_eq!(explanation.effects.len(), basket.actions().len());
        prop_assert_eq!(explanation.conflicts.len(), basket.conflicts().len());
        for (place, line) in state.lines.iter().enumerate() {
            let own = || explanation.effects.iter().filter(|effect| effect.line == Some(place));
            prop_assert_eq!(own().map(|effect| effect.amount).sum::<Money>(), line.amount);
            prop_assert_eq!(own().map(|effect| effect.quantity).sum::<i64>(), i64::try_from(line.quantity).unwrap());
            prop_assert!(own().all(|effect| effect.recorded.event.product_id == Some(line.product_id)));
        }
        let mut total = Money::ZERO;
        for effect in &explanation.effects {
            total += effect.amount;
            prop_assert_eq!(effect.total, total);
            prop_assert!(effect.line.is_some() || effect.amount == Money::ZERO);
            prop_assert!(effect.idle.is_none() || effect.quantity == 0);
        }
        prop_assert_eq!(total, state.total);
        let found: Vec<_> = explanation.effects.iter().flat_map(|effect| effect.findings.clone()).collect();
        prop_assert_eq!(found.len(), state.finding_count);
        prop_assert_eq!(&found[..state.findings.len()], &state.findings[..]);
        prop_assert_eq!(explanation.effects.last().is_some_and(|effect| effect.diverged), state.divergence.is_some());
    }

    #[test]
    fn a_basket_of_the_past_is_the_fold_of_what_had_come(
        acts in prop::collection::vec(any_act(), 0..30),
        meaning in prop_oneof![Just(ActionIdMeaning::Auto), Just(ActionIdMeaning::Number), Just(ActionIdMeaning::Code)],
    ) {
        let mut events = in_order(&acts);
        for event in &mut events {
            event.recorded_at += Duration::seconds(i64::try_from(event.sequence).unwrap());
        }
        let whole = folded(meaning, events.clone());
        for count in 0..=events.len() {
            let prefix = picture(&folded(meaning, events[..count].iter().cloned()));
            let sequence = u64::try_from(count).unwrap();
            prop_assert_eq!(picture(&whole.as_of(sequence)), prefix);
            let next = whole.first_after(OffsetDateTime::UNIX_EPOCH + Duration::seconds(i64::try_from(count).unwrap()));
            let kept = whole.actions().iter().chain(whole.conflicts()).map(|event| event.sequence);
            prop_assert_eq!(next, kept.filter(|kept| *kept > sequence).min());
        }
    }

    #[test]
    fn no_bytes_are_too_strange_to_be_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Event::parse(&body, Strictness::Original);
    }
}
