//! The UTC offsets of a time zone over a range, for backends whose database has no time zones or different ones.

use std::ops::Range;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The maximum number of pieces, which bounds the size of SQL statements. 30 years with daylight saving time have
/// 60.
const MOST_PIECES: usize = 64;

/// Splits a range into pieces with a constant UTC offset. Returns the start and the offset in seconds of each, in
/// order.
///
/// The first piece starts at the start of the range, even if the range is empty. Adjacent pieces have different
/// offsets. `None` if there are more than 64 pieces.
pub(crate) fn offsets_within(
    range: Range<Timestamp>,
    zone: &TimeZone,
) -> Option<Vec<(Timestamp, i32)>> {
    let mut offset = zone.to_offset(range.start);
    let mut pieces = vec![(range.start, offset.seconds())];
    let changes = zone.following(range.start);
    for change in changes.take_while(|change| change.timestamp() < range.end) {
        // Some transitions change only the zone's abbreviation.
        if change.offset() == offset {
            continue;
        }
        if pieces.len() == MOST_PIECES {
            return None;
        }
        offset = change.offset();
        pieces.push((change.timestamp(), offset.seconds()));
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const ZONES: [&str; 9] = [
        "UTC",
        "Europe/Berlin",
        "Europe/Dublin",
        "Africa/Casablanca",
        "America/New_York",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "America/St_Johns",
    ];

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    #[test]
    fn pieces_start_at_offset_changes() {
        let year = at("2026-01-01T00:00:00Z")..at("2027-01-01T00:00:00Z");
        let pieces = |name| offsets_within(year.clone(), &zone(name)).unwrap();
        assert_eq!(pieces("Asia/Kathmandu"), [(year.start, 20_700)]);
        assert_eq!(
            pieces("America/New_York"),
            [
                (year.start, -18_000),
                (at("2026-03-08T07:00:00Z"), -14_400),
                (at("2026-11-01T06:00:00Z"), -18_000),
            ]
        );
        let change = at("2026-11-01T06:00:00Z");
        let of = |range| offsets_within(range, &zone("America/New_York")).unwrap();
        assert_eq!(of(year.start..change).len(), 2);
        let after = change + SignedDuration::from_nanos(1);
        assert_eq!(of(change..after), [(change, -18_000)]);
        assert_eq!(of(after..change), [(after, -18_000)]);
        // Samoa crossed the International Date Line.
        let apia = offsets_within(
            at("2011-12-29T00:00:00Z")..at("2012-01-01T00:00:00Z"),
            &zone("Pacific/Apia"),
        );
        assert_eq!(
            apia.unwrap()[1..],
            [(at("2011-12-30T10:00:00Z"), 14 * 3_600)]
        );
    }

    #[test]
    fn more_than_64_pieces_return_none() {
        let from = at("2026-01-01T00:00:00Z");
        let until = |year| from..at(&format!("{year}-01-01T00:00:00Z"));
        let berlin = zone("Europe/Berlin");
        assert_eq!(
            offsets_within(until(2057), &berlin).map(|all| all.len()),
            Some(63)
        );
        assert_eq!(offsets_within(until(2058), &berlin), None);
        let ever = Timestamp::MIN..Timestamp::MAX;
        assert_eq!(offsets_within(ever.clone(), &berlin), None);
        let utc = offsets_within(ever, &TimeZone::UTC);
        assert_eq!(utc, Some(vec![(Timestamp::MIN, 0)]));
    }

    proptest! {
        #[test]
        fn the_offset_of_a_piece_is_that_of_the_zone(
            name in select(&ZONES[..]),
            // From 1900 to 2100, over up to five years.
            start in -2_208_988_800_000_i64..4_102_444_800_000,
            length in 0..157_000_000_000_i64,
            inside in proptest::collection::vec(0.0..1.0, 20),
        ) {
            let zone = zone(name);
            let start = Timestamp::from_millisecond(start).unwrap();
            let end = start + SignedDuration::from_millis(length);
            let pieces = offsets_within(start..end, &zone).unwrap();
            prop_assert_eq!(pieces[0].0, start);
            let ends = pieces[1..].iter().map(|piece| piece.0).chain([end]);
            for (&(from, offset), to) in pieces.iter().zip(ends) {
                prop_assert!(from < to || length == 0);
                let nanos = to.duration_since(from).as_nanos();
                let last = (nanos - 1).max(0);
                let within = inside.iter().map(|part| (last as f64 * part) as i128);
                for nanos in within.chain([0, last]) {
                    let time = from + SignedDuration::from_nanos_i128(nanos.min(last));
                    prop_assert_eq!(zone.to_offset(time).seconds(), offset, "{}", time);
                }
            }
            prop_assert!(pieces.windows(2).all(|pair| pair[0].1 != pair[1].1));
        }
    }
}
