//! Decoding of results and of other responses.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn value(numbers: &[i64]) -> Value {
    Value::Array(numbers.iter().copied().map(Value::Int).collect())
}

/// An operation with this number of limits.
fn operation(limits: usize) -> Operation {
    let charge = Charge {
        key: "key".into(),
        name: "name".into(),
        cost: 1,
        burst: 1,
        back: 0,
        owed: 0,
        seen: 0,
    };
    Operation {
        charges: std::iter::repeat_n(charge, limits).collect(),
        lease: None,
    }
}

fn leasing(limits: usize, wanted: u32) -> Operation {
    let lease = LeaseRequest {
        wanted,
        held: 0,
        recorded: None,
        ttl: Duration::from_secs(1),
        units: smallvec::smallvec![(1, 1); limits],
    };
    Operation {
        lease: Some(lease),
        ..operation(limits)
    }
}

#[test]
fn results_are_decoded() {
    let result = value(&[9, 5, 1, 10, 6, 0, 11, 7, 12, 8, 1, 13, 9, 20, 2, 9, 5]);
    let operations = [operation(1), operation(2), leasing(1, 20), operation(1)];
    let outcomes = decode(&result, &operations.each_ref()).unwrap();
    let expected = |is_allowed, arrivals: &[u64], granted| {
        Some(Outcome {
            is_allowed,
            now: 9_000_000_005,
            arrivals: arrivals.into(),
            granted,
        })
    };
    let expected = [
        expected(true, &[10_000_000_006], 0),
        expected(false, &[11_000_000_007, 12_000_000_008], 0),
        expected(true, &[13_000_000_009], 20),
        None,
    ];
    assert_eq!(outcomes, expected);
}

#[test]
fn unexpected_results_are_errors() {
    let one = operation(1);
    let is_error = |value: &Value, operation: &Operation| decode(value, &[operation]).is_err();
    let valid = [9, 5, 1, 10, 6];
    for length in 0..valid.len() {
        assert!(is_error(&value(&valid[..length]), &one));
    }
    let text = Value::BulkString(b"9".to_vec());
    for value in [
        Value::Nil,
        Value::Okay,
        text.clone(),
        Value::Array(vec![text]),
        value(&[9, 5, 1, 10, 6, 7]),
        value(&[9, 5, 3, 10, 6]),
        value(&[-9, 5, 1, 10, 6]),
        value(&[9, 1_000_000_000, 1, 10, 6]),
        value(&[i64::MAX, 5, 1, 10, 6]),
    ] {
        assert!(is_error(&value, &one), "{value:?}");
    }
    for granted in [-1, 8, i64::MAX] {
        let value = value(&[9, 5, 1, 10, 6, granted]);
        assert!(is_error(&value, &leasing(1, 7)), "{value:?}");
    }
    assert!(is_error(&value(&valid), &leasing(1, 7)));
}

/// The number of numbers in the result of an operation.
fn size(operation: &Operation) -> usize {
    1 + 2 * operation.charges.len() + usize::from(operation.lease.is_some())
}

/// The result of an operation with this outcome.
fn encoded(outcome: &Outcome, operation: &Operation) -> Vec<i64> {
    let time = |nanos: u64| [nanos / SECOND, nanos % SECOND].map(|it| it as i64);
    let mut numbers = vec![outcome.is_allowed.into()];
    numbers.extend(outcome.arrivals.iter().flat_map(|arrival| time(*arrival)));
    numbers.extend(operation.lease.as_ref().map(|_| i64::from(outcome.granted)));
    numbers
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let one = (0..4_usize, proptest::option::of(0..100_u32));
    let one = one.prop_map(|(limits, wanted)| match wanted {
        Some(wanted) => leasing(limits, wanted),
        None => operation(limits),
    });
    vec(one, 1..4)
}

/// Numbers that occur in results, and arbitrary ones.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![8 => 0..=2_i64, 4 => 0..1_000_000_000_i64, 1 => any::<i64>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn decoded_outcomes_are_those_of_the_result(
        operations in operations(),
        mut numbers in vec(number(), 30),
        missing in prop_oneof![8 => Just(0), 1 => -1..=1_isize],
    ) {
        let operations: Vec<_> = operations.iter().collect();
        let all: usize = operations.iter().map(|operation| size(operation)).sum();
        numbers.truncate((2 + all).saturating_add_signed(missing));
        if let Ok(outcomes) = decode(&value(&numbers), &operations) {
            prop_assert_eq!(missing, 0);
            prop_assert_eq!(outcomes.len(), operations.len());
            let mut rest = &numbers[2..];
            for (outcome, operation) in outcomes.iter().zip(operations) {
                let (these, others) = rest.split_at(size(operation));
                rest = others;
                match outcome {
                    Some(outcome) => prop_assert_eq!(encoded(outcome, operation), these),
                    None => prop_assert_eq!(these[0], 2),
                }
            }
        }
    }

    #[test]
    fn responses_that_are_not_a_result_are_rejected(
        bytes in "([*%~][0-2]\r\n)?([:+-][0-9]{1,2}\r\n|\\$1\r\n[0-9]\r\n|_\r\n|#t\r\n){1,4}",
        operations in operations(),
    ) {
        let response = redis::parse_redis_value(bytes.as_bytes());
        // Results have two numbers at least, and those of operations.
        if let Ok(response) = response {
            prop_assert!(decode(&response, &operations.iter().collect::<Vec<_>>()).is_err());
        }
    }
}
