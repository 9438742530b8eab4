//! Address lists: a parsed list round-trips through text, and contains exactly the addresses that share the
//! prefix of one of its networks.
//!
//! The input consists of lines: an address, then the list.

use std::net::IpAddr;

use keytally::key::AddressList;

pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let mut lines = text.split('\n');
    let address = lines.next().unwrap_or_default();
    let texts: Vec<&str> = lines.take(8).collect();
    let networks: Option<Vec<Network>> = texts.iter().map(|text| Network::read(text)).collect();
    let Ok(list) = AddressList::parse(&texts) else {
        assert!(networks.is_none(), "{texts:?}");
        return;
    };
    let networks = networks.unwrap_or_else(|| panic!("{texts:?}"));
    assert_eq!(
        (list.len(), list.is_empty()),
        (texts.len(), texts.is_empty())
    );
    let printed: Vec<String> = list.iter().map(|network| network.to_string()).collect();
    let expected: Vec<String> = networks.iter().map(Network::to_text).collect();
    assert_eq!(printed, expected);
    assert_eq!(AddressList::parse(&printed).as_ref(), Ok(&list));
    let json = serde_json::to_string(&list).unwrap();
    assert_eq!(serde_json::from_str::<AddressList>(&json).unwrap(), list);

    let given = address.parse().ok();
    // The bounds of each network, and their neighbors.
    let bounds = networks.iter().flat_map(Network::around);
    for address in given.into_iter().chain(bounds) {
        let expected = networks.iter().any(|network| network.holds(address));
        assert_eq!(list.contains(address), expected, "{address} {printed:?}");
    }
}

/// A network: its address family, address bits and prefix length.
struct Network {
    v4: bool,
    bits: u128,
    length: u32,
}

/// Whether an address is IPv4, including IPv4-mapped IPv6, and its bits.
fn bits_of(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(v4) => (true, u32::from(v4).into()),
        IpAddr::V6(v6) => match u128::from(v6) {
            mapped if mapped >> 32 == 0xffff => (true, mapped & 0xffff_ffff),
            bits => (false, bits),
        },
    }
}

impl Network {
    fn read(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => width,
            Some(digits) => {
                let most = if address.is_ipv4() { 2 } else { 3 };
                let plain = digits.len() <= most && digits.bytes().all(|b| b.is_ascii_digit());
                plain.then(|| digits.parse().ok())??
            }
        };
        if length > width {
            return None;
        }
        let raw: u128 = match address {
            IpAddr::V4(v4) => u32::from(v4).into(),
            IpAddr::V6(v6) => v6.into(),
        };
        // No bits may be set after the prefix.
        let rest = width - length;
        if rest > 0 && raw & (u128::MAX >> (128 - rest)) != 0 {
            return None;
        }
        let (v4, bits) = bits_of(address);
        match (address.is_ipv4(), v4) {
            (false, true) if length < 96 => Some(Self {
                v4: false,
                bits: raw,
                length,
            }),
            (false, true) => Some(Self {
                v4,
                bits,
                length: length - 96,
            }),
            _ => Some(Self { v4, bits, length }),
        }
    }

    fn width(&self) -> u32 {
        if self.v4 { 32 } else { 128 }
    }

    fn address(&self, bits: u128) -> IpAddr {
        if self.v4 {
            IpAddr::V4((bits as u32).into())
        } else {
            IpAddr::V6(bits.into())
        }
    }

    fn to_text(&self) -> String {
        format!("{}/{}", self.address(self.bits), self.length)
    }

    fn holds(&self, address: IpAddr) -> bool {
        let (v4, bits) = bits_of(address);
        let same = |nth| (bits >> nth) & 1 == (self.bits >> nth) & 1;
        v4 == self.v4 && (self.width() - self.length..self.width()).all(same)
    }

    fn around(&self) -> [IpAddr; 5] {
        let rest = self.width() - self.length;
        let last = self.bits
            | if rest == 0 {
                0
            } else {
                u128::MAX >> (128 - rest)
            };
        let mapped = IpAddr::V6((last & 0xffff_ffff | 0xffff << 32).into());
        [
            self.address(self.bits),
            self.address(last),
            self.address(self.bits.wrapping_sub(1)),
            self.address(last.wrapping_add(1)),
            mapped,
        ]
    }
}
