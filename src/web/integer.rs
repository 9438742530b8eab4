//! Integers as defined by JSON Schema 2020-12
//! ([§4.2.3](https://json-schema.org/draft/2020-12/json-schema-core#section-4.2.3)): numbers with a zero fraction, such
//! as `600.0`, are integers.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// A non-negative integer.
pub(crate) struct Integer<T>(pub(crate) T);

impl<'de, T: TryFrom<u64>> Deserialize<'de> for Integer<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Number(PhantomData))
    }
}

struct Number<T>(PhantomData<T>);

impl<T: TryFrom<u64>> Visitor<'_> for Number<T> {
    type Value = Integer<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = 8 * size_of::<T>();
        write!(f, "a non-negative integer of at most {bits} bits")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        let fits = T::try_from(number).map(Integer);
        fits.map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        // Beyond 2⁵³, integers are not represented exactly.
        const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
        if number.fract() == 0.0 && (0.0..=MAX_EXACT).contains(&number) {
            self.visit_u64(number as u64)
        } else {
            Err(E::invalid_value(Unexpected::Float(number), &self))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_a_zero_fraction_are_integers() {
        let read = |text| serde_json::from_str::<Integer<u32>>(text).map(|Integer(number)| number);
        for (text, number) in [
            ("600", 600),
            ("600.0", 600),
            ("6e2", 600),
            ("0.0", 0),
            ("-0.0", 0),
            ("4294967295", u32::MAX),
            ("4294967295.0", u32::MAX),
        ] {
            assert_eq!(read(text).unwrap(), number, "{text}");
        }
        for text in [
            "600.5",
            "-1",
            "-1.0",
            "4294967296",
            "4294967296.0",
            "1e300",
            "\"600\"",
            "null",
            "true",
            "[600]",
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(
                error.contains("a non-negative integer of at most 32 bits"),
                "{text}: {error}"
            );
        }
        let large = serde_json::from_str::<Integer<u64>>("18446744073709551615").unwrap();
        assert_eq!(large.0, u64::MAX);
        assert!(serde_json::from_str::<Integer<u64>>("1.8446744073709552e19").is_err());
    }
}
