//! Address lists of keys.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::parse_error::ParseError;

/// A list of IPv4 and IPv6 networks in CIDR notation. As the address list of a key, an empty list allows every
/// address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<Box<str>>", into = "Vec<String>")]
pub struct AddressList(Box<[IpNet]>);

impl AddressList {
    /// Parses addresses and networks: `["192.0.2.7", "10.0.0.0/8", "2001:db8::/32"]`. IPv4-mapped IPv6 networks
    /// (`::ffff:10.0.0.0/104`) are converted to IPv4.
    ///
    /// # Errors
    ///
    /// [`ParseError`] for the first invalid text. A network with host bits set, such as `10.0.0.1/8`, is
    /// ambiguous and rejected.
    pub fn parse<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, ParseError> {
        texts
            .into_iter()
            .map(|text| network(text.as_ref()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether one of the networks contains the address. IPv4-mapped IPv6 addresses are converted to IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of networks.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Iterates over the networks in CIDR notation.
    pub fn iter(&self) -> impl Iterator<Item = impl fmt::Display + '_> + '_ {
        self.0.iter()
    }
}

fn network(text: &str) -> Result<IpNet, ParseError> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text
            .parse()
            .ok()
            .filter(|network: &IpNet| *network == network.trunc() && is_plain(text, network))
            .ok_or_else(|| unknown_network(text))?,
    };
    Ok(canonical(network))
}

fn unknown_network(text: &str) -> ParseError {
    ParseError::quoting(text, |text| {
        format!("`{text}` is not an IP address or a network such as 10.0.0.0/8 or 2001:db8::/32")
    })
}

/// Whether the address has no leading zeros: some parsers read `010.0.0.0` as octal, 8.0.0.0.
fn is_plain(text: &str, network: &IpNet) -> bool {
    let address = text.split('/').next().and_then(|text| text.parse().ok());
    address == Some(network.addr())
}

/// Converts IPv4-mapped IPv6 networks to IPv4.
fn canonical(network: IpNet) -> IpNet {
    let mapped = || {
        let length = network.prefix_len().checked_sub(96)?;
        let address = network.addr().to_canonical();
        address
            .is_ipv4()
            .then(|| IpNet::new(address, length).ok())?
    };
    match network {
        IpNet::V4(_) => network,
        IpNet::V6(_) => mapped().unwrap_or(network),
    }
}

impl TryFrom<Vec<Box<str>>> for AddressList {
    type Error = ParseError;

    fn try_from(texts: Vec<Box<str>>) -> Result<Self, Self::Error> {
        Self::parse(texts)
    }
}

impl From<AddressList> for Vec<String> {
    fn from(list: AddressList) -> Self {
        list.0.iter().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        let list = AddressList::parse(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]).unwrap();
        for text in ["10.255.0.1", "192.0.2.7", "::ffff:10.1.2.3", "2001:db8::1"] {
            assert!(list.contains(text.parse().unwrap()), "{text}");
        }
        for text in ["11.0.0.1", "192.0.2.8", "2001:db9::1", "::1"] {
            assert!(!list.contains(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn ipv4_mapped_networks_equal_ipv4_networks() {
        let texts = ["::ffff:10.0.0.0/104", "::ffff:192.0.2.7", "::ffff:0:0/96"];
        let list = AddressList::parse(texts).unwrap();
        let plain = AddressList::parse(["10.0.0.0/8", "192.0.2.7", "0.0.0.0/0"]).unwrap();
        assert_eq!(list, plain);
        let list = AddressList::parse(["::ffff:10.0.0.0/104"]).unwrap();
        assert!(list.contains("10.1.2.3".parse().unwrap()));
        assert!(!list.contains("11.1.2.3".parse().unwrap()));
    }

    #[test]
    fn invalid_networks_are_rejected() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "010.0.0.0/8",
            "300.0.0.1",
            "10.0.0.0/",
            "host",
        ] {
            assert!(AddressList::parse([text]).is_err(), "{text}");
        }
    }

    #[test]
    fn list_round_trips_through_json() {
        let list = AddressList::parse(["10.0.0.0/8", "::1"]).unwrap();
        assert_eq!((list.len(), list.is_empty()), (2, false));
        let none = AddressList::default();
        assert_eq!((none.len(), none.is_empty()), (0, true));
        let json = serde_json::to_string(&list).unwrap();
        assert_eq!(json, r#"["10.0.0.0/8","::1/128"]"#);
        assert_eq!(serde_json::from_str::<AddressList>(&json).unwrap(), list);
        assert!(serde_json::from_str::<AddressList>(r#"["x"]"#).is_err());
    }
}
