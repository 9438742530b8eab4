//! Decoding of results and of other responses.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A result of the script.
fn value(now: [i64; 2], decisions: &[u8], times: &[[u32; 2]], granted: &[i64]) -> Value {
    let field = |time: &[u32; 2]| {
        [time[0], time[1], 7, !time[0], 3]
            .map(u32::to_le_bytes)
            .concat()
    };
    let times: Vec<u8> = times.iter().flat_map(field).collect();
    let texts = [decisions.to_vec(), times].map(Value::BulkString);
    let numbers = |numbers: &[i64]| numbers.iter().copied().map(Value::Int).collect::<Vec<_>>();
    Value::Array([numbers(&now), texts.into(), numbers(granted)].concat())
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
        seen: Arrival::default(),
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
    let times = [[10, 6], [11, 7], [12, 8], [13, 9], [9, 5]];
    let result = value([9, 5], b"1012", &times, &[20]);
    let operations = [operation(1), operation(2), leasing(1, 20), operation(1)];
    let outcomes = decode(&result, &operations.each_ref()).unwrap();
    let arrival = |&time: &u64| Arrival {
        returned: u64::from(!((time / SECOND) as u32)) * SECOND + 3,
        time,
    };
    let expected = |is_allowed, arrivals: &[u64], granted| {
        Some(Outcome {
            is_allowed,
            now: 9_000_000_005,
            arrivals: arrivals.iter().map(arrival).collect(),
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
    let valid = value([9, 5], b"1", &[[10, 6]], &[]);
    assert!(!is_error(&valid, &one));
    let Value::Array(values) = &valid else {
        unreachable!()
    };
    for length in 0..values.len() {
        assert!(is_error(&Value::Array(values[..length].to_vec()), &one));
    }
    let with = |index: usize, value: Value| {
        let mut values = values.clone();
        values[index] = value;
        Value::Array(values)
    };
    let text = |bytes: &[u8]| Value::BulkString(bytes.into());
    for value in [
        Value::Nil,
        Value::Okay,
        text(b"9"),
        with(0, text(b"9")),
        with(2, Value::Int(1)),
        with(2, text(b"")),
        with(2, text(b"3")),
        with(2, text(b"11")),
        with(3, Value::Nil),
        with(3, text(&[0; 19])),
        with(3, text(&[0; 21])),
        with(3, text(&[0; 40])),
        value([9, 5], b"1", &[[10, 6]], &[7]),
        value([9, 5], b"1", &[[10, 1_000_000_000]], &[]),
        value([-9, 5], b"1", &[[10, 6]], &[]),
        value([9, 1_000_000_000], b"1", &[[10, 6]], &[]),
        value([i64::MAX, 5], b"1", &[[10, 6]], &[]),
    ] {
        assert!(is_error(&value, &one), "{value:?}");
    }
    for granted in [-1, 8, i64::MAX] {
        let value = value([9, 5], b"1", &[[10, 6]], &[granted]);
        assert!(is_error(&value, &leasing(1, 7)), "{value:?}");
    }
    assert!(is_error(&valid, &leasing(1, 7)));
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let one = (0..4_usize, proptest::option::of(0..100_u32));
    let one = one.prop_map(|(limits, wanted)| match wanted {
        Some(wanted) => leasing(limits, wanted),
        None => operation(limits),
    });
    vec(one, 1..4)
}

/// A count that is mostly right.
fn near(count: usize) -> impl Strategy<Value = usize> {
    prop_oneof![8 => Just(count), 1 => 0..=count, 1 => Just(count + 1)]
}

/// What may be the result of operations.
#[derive(Debug, Clone)]
struct Parts {
    now: [i64; 2],
    decisions: Vec<u8>,
    times: Vec<[u32; 2]>,
    granted: Vec<i64>,
}

fn results() -> impl Strategy<Value = (Vec<Operation>, Parts)> {
    operations().prop_flat_map(|operations| {
        let limits = operations.iter().map(|it| it.charges.len()).sum();
        let leases = operations.iter().filter(|it| it.lease.is_some()).count();
        let nanos = || prop_oneof![20 => 0..1_000_000_000_u32, 1 => any::<u32>()];
        let decision = prop_oneof![20 => b'0'..=b'2', 1 => any::<u8>()];
        let decisions =
            near(operations.len()).prop_flat_map(move |count| vec(decision.clone(), count));
        let time = (any::<u32>(), nanos()).prop_map(|(seconds, nanos)| [seconds, nanos]);
        let times = near(limits).prop_flat_map(move |count| vec(time.clone(), count));
        let granted = near(leases).prop_flat_map(|count| vec(0..60_i64, count));
        let now =
            (0..=i64::from(u32::MAX), nanos()).prop_map(|(seconds, nanos)| [seconds, nanos.into()]);
        let parts = (now, decisions, times, granted);
        let parts = parts.prop_map(|(now, decisions, times, granted)| Parts {
            now,
            decisions,
            times,
            granted,
        });
        (Just(operations), parts)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn decoded_outcomes_are_those_of_the_result((operations, parts) in results()) {
        let operations: Vec<_> = operations.iter().collect();
        let Parts { now, decisions, times, granted } = parts;
        if let Ok(outcomes) = decode(&value(now, &decisions, &times, &granted), &operations) {
            let nanos = |[seconds, nanos]: [u64; 2]| seconds * SECOND + nanos;
            let (mut times, mut granted) = (times.iter(), granted.iter());
            prop_assert_eq!(outcomes.len(), decisions.len());
            for ((outcome, operation), decision) in outcomes.iter().zip(operations).zip(decisions) {
                let arrivals = operation.charges.iter().map(|_| {
                    let time = *times.next().unwrap();
                    Arrival { returned: u64::from(!time[0]) * SECOND + 3, time: nanos(time.map(u64::from)) }
                });
                let arrivals = arrivals.collect();
                let granted = operation.lease.as_ref().map_or(0, |_| *granted.next().unwrap());
                let expected = (decision != b'2').then(|| Outcome {
                    is_allowed: decision == b'1',
                    now: nanos(now.map(|number| number as u64)),
                    arrivals,
                    granted: granted as u32,
                });
                prop_assert_eq!(outcome, &expected);
            }
            prop_assert_eq!((times.next(), granted.next()), (None, None));
        }
    }

    #[test]
    fn responses_that_are_not_a_result_are_rejected(
        bytes in "([*%~][0-4]\r\n)?([:+-][0-9]{1,2}\r\n|\\$1\r\n[0-9]\r\n|_\r\n|#t\r\n){1,4}",
        limits in 1..3_usize,
    ) {
        let response = redis::parse_redis_value(bytes.as_bytes());
        // The arrival time of a limit has twenty bytes.
        if let Ok(response) = response {
            prop_assert!(decode(&response, &[&operation(limits)]).is_err());
        }
    }
}
