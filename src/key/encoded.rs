//! Decoding of keys and hashes of a fixed length.

use base64::Engine as _;
use base64::alphabet::{self, Alphabet};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Decodes hexadecimal digits or base64 ([RFC 4648](https://www.rfc-editor.org/rfc/rfc4648)) in the standard or URL-safe
/// alphabet, with or without padding.
pub(super) fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    const STANDARD: GeneralPurpose = base64(&alphabet::STANDARD);
    const URL_SAFE: GeneralPurpose = base64(&alphabet::URL_SAFE);
    let decode = |engine: GeneralPurpose| {
        let mut bytes = [0; N];
        let length = engine.decode_slice(text, &mut bytes).ok()?;
        (length == N).then_some(bytes)
    };
    from_hex(text)
        .or_else(|| decode(STANDARD))
        .or_else(|| decode(URL_SAFE))
}

const fn base64(alphabet: &Alphabet) -> GeneralPurpose {
    let padding = DecodePaddingMode::Indifferent;
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(padding);
    GeneralPurpose::new(alphabet, config)
}

pub(super) fn from_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |b: u8| char::from(b).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}
