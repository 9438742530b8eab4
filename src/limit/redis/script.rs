//! The script that charges limits: its arguments and its result.

use std::collections::HashMap;
use std::sync::Arc;

use redis::{Cmd, Value};
use smallvec::SmallVec;

use crate::limit::LimitError;

/// See its first lines for arguments and result.
pub(super) const SOURCE: &str = include_str!("acquire.lua");

const SECOND: u64 = 1_000_000_000;

/// An operation on the limits of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Operation(pub(super) SmallVec<[Charge; 1]>);

/// The charge of a limit, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Charge {
    /// The Redis key of the subject.
    pub(super) key: Arc<str>,
    pub(super) name: Arc<str>,
    /// The time of the cost.
    pub(super) cost: u64,
    /// The time of the whole burst.
    pub(super) burst: u64,
    /// The time to return before.
    pub(super) back: u64,
    /// The time to consume in any case.
    pub(super) owed: u64,
    /// The latest known arrival time since 1970.
    pub(super) seen: u64,
}

/// The outcome of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) is_allowed: bool,
    /// The time of the decision since 1970, in nanoseconds.
    pub(super) now: u64,
    /// The arrival time of each limit since 1970, in nanoseconds.
    pub(super) arrivals: SmallVec<[u64; 1]>,
}

/// Appends keys and arguments for operations to a command.
pub(super) fn push_arguments(command: &mut Cmd, now: Option<u64>, operations: &[&Operation]) {
    let mut subjects: Vec<(&str, SmallVec<[&Arc<str>; 4]>)> = Vec::new();
    let mut indices: HashMap<&str, usize> = HashMap::new();
    // For each charge, the index of its subject and its number among the names of the subject.
    let mut places = Vec::with_capacity(operations.len());
    for charge in operations.iter().flat_map(|operation| &operation.0) {
        let subject = *indices.entry(&charge.key).or_insert_with(|| {
            subjects.push((&charge.key, SmallVec::new()));
            subjects.len() - 1
        });
        let names = &mut subjects[subject].1;
        // They are few, as the limits of a subject are.
        let known = names.iter().position(|name| **name == charge.name);
        let number = known.unwrap_or_else(|| {
            names.push(&charge.name);
            names.len() - 1
        });
        places.push((subject, number + 1));
    }

    command.arg(subjects.len());
    for (key, _) in &subjects {
        command.arg(*key);
    }
    let mut time = Vec::new();
    if let Some(now) = now {
        push_time(&mut time, now);
    }
    command.arg(time);
    let mut input = Vec::new();
    let mut before = Vec::with_capacity(subjects.len());
    let mut all = 0;
    for (_, names) in &subjects {
        before.push(all);
        all += names.len();
        input.extend_from_slice(&(names.len() as u16).to_le_bytes());
        for name in names {
            input.push(name.len() as u8);
            input.extend_from_slice(name.as_bytes());
        }
    }
    input.extend_from_slice(&(operations.len() as u16).to_le_bytes());
    let mut places = places.into_iter();
    for Operation(charges) in operations {
        input.push(charges.len() as u8);
        for (charge, (subject, number)) in charges.iter().zip(&mut places) {
            input.extend_from_slice(&((before[subject] + number) as u16).to_le_bytes());
            for time in [
                charge.cost,
                charge.burst,
                charge.back,
                charge.owed,
                charge.seen,
            ] {
                push_time(&mut input, time);
            }
        }
    }
    command.arg(input);
}

/// Appends a time of at most 136 years, which is more than any limit takes.
fn push_time(input: &mut Vec<u8>, nanos: u64) {
    let (seconds, nanos) = (nanos / SECOND, (nanos % SECOND) as u32);
    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
    input.extend_from_slice(&seconds.to_le_bytes());
    input.extend_from_slice(&nanos.to_le_bytes());
}

/// Decodes the result for operations with these numbers of limits.
///
/// # Errors
///
/// [`LimitError::Unavailable`] if the result has another form.
pub(super) fn decode(value: &Value, limits: &[usize]) -> Result<Vec<Outcome>, LimitError> {
    parse(value, limits).ok_or_else(|| LimitError::Unavailable("unexpected response".into()))
}

fn parse(value: &Value, limits: &[usize]) -> Option<Vec<Outcome>> {
    let Value::Array(values) = value else {
        return None;
    };
    let mut numbers = values.iter().map(|value| match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    });
    let mut next = || numbers.next().flatten();
    let time = |next: &mut dyn FnMut() -> Option<u64>| {
        let (seconds, nanos) = (next()?, next()?);
        (nanos < SECOND).then(|| seconds.checked_mul(SECOND)?.checked_add(nanos))?
    };
    let now = time(&mut next)?;
    let outcomes = limits.iter().map(|&count| {
        let is_allowed = match next()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let arrivals = (0..count).map(|_| time(&mut next)).collect::<Option<_>>()?;
        Some(Outcome {
            is_allowed,
            now,
            arrivals,
        })
    });
    let outcomes = outcomes.collect::<Option<Vec<_>>>()?;
    numbers.next().is_none().then_some(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(numbers: &[i64]) -> Value {
        Value::Array(numbers.iter().copied().map(Value::Int).collect())
    }

    #[test]
    fn results_are_decoded() {
        let outcomes = decode(&value(&[9, 5, 1, 10, 6, 0, 11, 7, 12, 8]), &[1, 2]).unwrap();
        let expected = |is_allowed, arrivals: &[u64]| Outcome {
            is_allowed,
            now: 9_000_000_005,
            arrivals: arrivals.into(),
        };
        let second = expected(false, &[11_000_000_007, 12_000_000_008]);
        assert_eq!(outcomes, [expected(true, &[10_000_000_006]), second]);
    }

    #[test]
    fn unexpected_results_are_errors() {
        let valid = [9, 5, 1, 10, 6];
        for length in 0..valid.len() {
            assert!(decode(&value(&valid[..length]), &[1]).is_err());
        }
        let text = Value::BulkString(b"9".to_vec());
        for value in [
            Value::Nil,
            Value::Okay,
            text.clone(),
            Value::Array(vec![text]),
            value(&[9, 5, 1, 10, 6, 7]),
            value(&[9, 5, 2, 10, 6]),
            value(&[-9, 5, 1, 10, 6]),
            value(&[9, 1_000_000_000, 1, 10, 6]),
            value(&[i64::MAX, 5, 1, 10, 6]),
        ] {
            assert!(decode(&value, &[1]).is_err(), "{value:?}");
        }
    }
}
