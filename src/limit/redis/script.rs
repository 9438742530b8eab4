//! The script that charges limits: its arguments and its result.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};
use smallvec::SmallVec;

use super::lease::{Recorded, expiry_step, millis};
use crate::limit::LimitError;

/// See its first lines for arguments and result.
pub(super) const SOURCE: &str = include_str!("acquire.lua");

const SECOND: u64 = 1_000_000_000;

/// An operation on the limits of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) charges: SmallVec<[Charge; 1]>,
    pub(super) lease: Option<LeaseRequest>,
}

impl Operation {
    /// The charges of each subject.
    fn subjects(&self) -> impl Iterator<Item = &[Charge]> {
        self.charges.chunk_by(|one, next| one.key == next.key)
    }

    /// The part of its keys by which a cluster places them.
    pub(super) fn tag(&self) -> Arc<str> {
        let key = self.charges.first().map_or("", |charge| &charge.key);
        let tag = key
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'));
        tag.map_or(key, |(tag, _)| tag).into()
    }
}

/// A request for units of the limits of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeaseRequest {
    /// The maximum number of units to lease.
    pub(super) wanted: u32,
    /// The units that are left of those that were recorded.
    pub(super) held: u32,
    pub(super) recorded: Option<Recorded>,
    pub(super) ttl: Duration,
    /// For each limit, the time of a unit in nanoseconds, and the maximum number of units that are leased.
    pub(super) units: SmallVec<[(u64, u32); 1]>,
}

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
    /// The latest known arrival time.
    pub(super) seen: Arrival,
}

/// The theoretical arrival time of a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrival {
    /// The total time that was returned, in nanoseconds, by which the arrival time may be earlier.
    pub(super) returned: u64,
    /// The time since 1970, in nanoseconds.
    pub(super) time: u64,
}

/// The outcome of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) is_allowed: bool,
    /// The time of the decision since 1970, in nanoseconds.
    pub(super) now: u64,
    /// The arrival time of each limit.
    pub(super) arrivals: SmallVec<[Arrival; 1]>,
    /// The number of units that were leased.
    pub(super) granted: u32,
}

/// Appends keys and arguments for operations to a command.
pub(super) fn push_arguments(command: &mut Cmd, now: Option<u64>, operations: &[&Operation]) {
    let subjects = || operations.iter().flat_map(|it| it.subjects());
    command.arg(subjects().count());
    for subject in subjects() {
        command.arg(subject.first().map(|charge| &*charge.key));
    }
    let mut time = Vec::new();
    if let Some(now) = now {
        push_time(&mut time, now);
    }
    command.arg(time);
    let mut input = Vec::from((operations.len() as u16).to_le_bytes());
    for operation in operations {
        let charges = &operation.charges;
        let has_several = operation.subjects().any(|limits| limits.len() > 1);
        let is_correction = charges.iter().any(|it| it.back > 0 || it.owed > 0);
        input.extend([
            charges.len() as u8,
            has_several.into(),
            is_correction.into(),
            operation.lease.is_some().into(),
        ]);
        if has_several {
            for limits in operation.subjects() {
                input.push(limits.len() as u8);
                for charge in limits {
                    charge.push_name(&mut input);
                }
            }
        }
        for charge in charges {
            if !has_several {
                charge.push_name(&mut input);
            }
            charge.push_times(&mut input, is_correction);
        }
        if let Some(lease) = &operation.lease {
            lease.push(&mut input);
        }
    }
    command.arg(input);
}

impl Charge {
    fn push_name(&self, input: &mut Vec<u8>) {
        input.push(self.name.len() as u8);
        input.extend_from_slice(self.name.as_bytes());
    }

    fn push_times(&self, input: &mut Vec<u8>, is_correction: bool) {
        push_time(input, self.seen.time);
        push_time(input, self.seen.returned);
        push_time(input, self.cost);
        push_time(input, self.burst);
        if is_correction {
            push_time(input, self.back);
            push_time(input, self.owed);
        }
    }
}

impl LeaseRequest {
    fn push(&self, input: &mut Vec<u8>) {
        let (units, expires_at) = match self.recorded {
            Some(recorded) => (recorded.units, recorded.expires_at),
            None => (0, 0),
        };
        for number in [
            self.wanted,
            self.held,
            millis(self.ttl),
            expiry_step(self.ttl),
            units,
        ] {
            input.extend_from_slice(&number.to_le_bytes());
        }
        push_time(input, expires_at.saturating_mul(1_000_000));
        for (time, most) in &self.units {
            push_time(input, *time);
            input.extend_from_slice(&most.to_le_bytes());
        }
    }
}

/// Appends a time of at most 136 years, which is more than any limit takes.
fn push_time(input: &mut Vec<u8>, nanos: u64) {
    let (seconds, nanos) = (nanos / SECOND, (nanos % SECOND) as u32);
    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
    input.extend_from_slice(&seconds.to_le_bytes());
    input.extend_from_slice(&nanos.to_le_bytes());
}

/// Decodes the result of operations. `None` for those with a damaged value, which are not charged.
///
/// # Errors
///
/// [`LimitError::Unavailable`] if the result has another form.
pub(super) fn decode(
    value: &Value,
    operations: &[&Operation],
) -> Result<Vec<Option<Outcome>>, LimitError> {
    parse(value, operations).ok_or_else(|| LimitError::Unavailable("unexpected response".into()))
}

fn parse(value: &Value, operations: &[&Operation]) -> Option<Vec<Option<Outcome>>> {
    let Value::Array(values) = value else {
        return None;
    };
    let [seconds, nanos, decisions, times, granted @ ..] = &values[..] else {
        return None;
    };
    let now = time(number(seconds)?, number(nanos)?)?;
    let (Value::BulkString(decisions), Value::BulkString(times)) = (decisions, times) else {
        return None;
    };
    let (mut decisions, (mut times, [])) = (decisions.iter(), times.as_chunks::<20>()) else {
        return None;
    };
    let mut granted = granted.iter();
    let outcomes = operations.iter().map(|operation| {
        let is_allowed = match decisions.next()? {
            b'0' => Some(false),
            b'1' => Some(true),
            b'2' => None,
            _ => return None,
        };
        let of_limits;
        (of_limits, times) = times.split_at_checked(operation.charges.len())?;
        let arrivals = of_limits.iter().map(arrival).collect::<Option<_>>()?;
        let granted = match &operation.lease {
            Some(lease) => {
                let granted = number(granted.next()?)?.try_into().ok();
                granted.filter(|it| *it <= lease.wanted)?
            }
            None => 0,
        };
        Some(is_allowed.map(|is_allowed| Outcome {
            is_allowed,
            now,
            arrivals,
            granted,
        }))
    });
    let outcomes = outcomes.collect::<Option<Vec<_>>>()?;
    let is_whole = decisions.next().is_none() && times.is_empty() && granted.next().is_none();
    is_whole.then_some(outcomes)
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// The arrival time in a field. The field also has a second before which its hash does not expire.
fn arrival(field: &[u8; 20]) -> Option<Arrival> {
    let [seconds, nanos, _, returned @ ..] = field.as_chunks::<4>().0 else {
        return None;
    };
    let number = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
    let [returned_seconds, returned_nanos] = returned else {
        return None;
    };
    Some(Arrival {
        returned: time(number(returned_seconds), number(returned_nanos))?,
        time: time(number(seconds), number(nanos))?,
    })
}

/// A time in nanoseconds.
fn time(seconds: u64, nanos: u64) -> Option<u64> {
    let is_valid = nanos < SECOND;
    is_valid.then(|| seconds.checked_mul(SECOND)?.checked_add(nanos))?
}
