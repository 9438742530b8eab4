//! Number formats.

/// Prefixes for powers of a thousand.
const UNITS: [&str; 6] = ["k", "M", "G", "T", "P", "E"];

/// All digits, with thousands separators: `1,204,331`.
pub(in crate::dashboard) fn count(n: impl Into<u128>) -> String {
    let digits = n.into().to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Two or three digits with a prefix, for axes: `1.2M`.
pub(in crate::dashboard) fn compact(n: impl Into<u128>) -> String {
    let n = n.into();
    if n < 1_000 {
        return n.to_string();
    }
    let mut size = 1;
    for unit in UNITS {
        size *= 1_000;
        let (whole, tenths) = (rounded(n, size), rounded(n.saturating_mul(10), size));
        match whole {
            1_000.. => {}
            _ if tenths >= 1_000 || tenths.is_multiple_of(10) => {
                return format!("{whole}{unit}");
            }
            _ => return format!("{}{unit}", tenth(tenths)),
        }
    }
    count(n)
}

/// A time in microseconds, for axes: `500 µs`, `20 ms`, `2.5 s`.
pub(in crate::dashboard) fn time(micros: u64) -> String {
    let (n, unit) = match micros {
        0 => return "0".to_owned(),
        1..1_000 => return format!("{micros} µs"),
        1_000..1_000_000 => (micros / 100, "ms"),
        _ => (micros / 100_000, "s"),
    };
    match n % 10 {
        0 => format!("{} {unit}", count(n / 10)),
        _ => format!("{} {unit}", tenth(n.into())),
    }
}

/// A percentage: `12.4%`. Never rounded to `0%` or `100%`.
pub(in crate::dashboard) fn share(part: impl Into<u128>, whole: impl Into<u128>) -> String {
    let (part, whole) = (part.into(), whole.into());
    if part == 0 {
        return "0%".to_owned();
    }
    if part >= whole {
        return "100%".to_owned();
    }
    match rounded(part.saturating_mul(1_000), whole) {
        0 => "<0.1%".to_owned(),
        1_000.. => ">99.9%".to_owned(),
        tenths => format!("{}%", tenth(tenths)),
    }
}

/// The relative change: `+12%`, `−3%`, `±0%`, or `new` if the previous number is zero.
///
/// Never rounded to `±0%` or `−100%`.
pub(in crate::dashboard) fn change(now: u64, before: u64) -> String {
    if now == before {
        return "±0%".to_owned();
    }
    if before == 0 {
        return "new".to_owned();
    }
    let sign = if now > before { '+' } else { '−' };
    let difference = u128::from(now.abs_diff(before));
    let tenths = rounded(difference * 1_000, before.into());
    let percent = match rounded(difference * 100, before.into()) {
        0 if tenths == 0 => "<0.1".to_owned(),
        _ if tenths < 10 => tenth(tenths),
        100 if now > 0 && now < before => ">99".to_owned(),
        1_000.. => ">999".to_owned(),
        percent => percent.to_string(),
    };
    format!("{sign}{percent}%")
}

/// A quotient, rounded half up.
fn rounded(n: u128, by: u128) -> u128 {
    n.saturating_add(by / 2) / by
}

fn tenth(tenths: u128) -> String {
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = i64::MAX.cast_unsigned();

    #[test]
    fn counts_have_separators() {
        let cases = [
            (0_u64, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_204_331, "1,204,331"),
            (MOST, "9,223,372,036,854,775,807"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ];
        for (n, text) in cases {
            assert_eq!(count(n), text);
        }
    }

    #[test]
    fn times_have_the_unit_of_their_size() {
        let cases = [
            (0, "0"),
            (500, "500 µs"),
            (1_000, "1 ms"),
            (2_500, "2.5 ms"),
            (200_000, "200 ms"),
            (1_000_000, "1 s"),
            (1_500_000, "1.5 s"),
            (5_000_000_000, "5,000 s"),
        ];
        for (micros, text) in cases {
            assert_eq!(time(micros), text);
        }
    }

    #[test]
    fn compact_counts_are_short() {
        let cases = [
            (0_u64, "0"),
            (999, "999"),
            (1_000, "1k"),
            (1_204, "1.2k"),
            (12_040, "12k"),
            (12_500, "12.5k"),
            (99_940, "99.9k"),
            (99_960, "100k"),
            (120_400, "120k"),
            (999_499, "999k"),
            (999_500, "1M"),
            (1_204_331, "1.2M"),
            (1_000_000_000, "1G"),
            (MOST, "9.2E"),
            (u64::MAX, "18.4E"),
        ];
        for (n, text) in cases {
            assert_eq!(compact(n), text);
        }
        assert!(compact(u128::MAX).ends_with(",455"));
    }

    #[test]
    fn shares_are_never_rounded_to_zero_or_one_hundred() {
        let cases = [
            (0, 0, "0%"),
            (0, 5, "0%"),
            (5, 5, "100%"),
            (124, 1_000, "12.4%"),
            (1, 2, "50.0%"),
            (1, 1_000, "0.1%"),
            (4, 10_000, "<0.1%"),
            (1, MOST, "<0.1%"),
            (9_994, 10_000, "99.9%"),
            (9_996, 10_000, ">99.9%"),
            (MOST - 1, MOST, ">99.9%"),
            (MOST, MOST, "100%"),
        ];
        for (part, whole, text) in cases {
            assert_eq!(share(part, whole), text);
        }
    }

    #[test]
    fn changes_are_never_rounded_to_none_or_all() {
        let cases = [
            (0, 0, "±0%"),
            (7, 7, "±0%"),
            (7, 0, "new"),
            (0, 7, "−100%"),
            (112, 100, "+12%"),
            (97, 100, "−3%"),
            (1_004, 1_000, "+0.4%"),
            (996, 1_000, "−0.4%"),
            (100_001, 100_000, "+<0.1%"),
            (1, 1_000, "−>99%"),
            (2, 1, "+100%"),
            (1_099, 100, "+999%"),
            (1_100, 100, "+>999%"),
            (MOST, 1, "+>999%"),
            (1, MOST, "−>99%"),
            (u64::MAX, u64::MAX - 1, "+<0.1%"),
        ];
        for (now, before, text) in cases {
            assert_eq!(change(now, before), text, "{now} after {before}");
        }
    }
}
