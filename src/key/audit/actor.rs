//! Actors of changes.

/// Who makes a change, for the audit log: a user of the application, or the application itself.
///
/// ```
/// use keytally::backend::MemoryBackend;
/// use keytally::key::{Actor, Issuer, KeyAdmin, NewKey};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryBackend::new();
/// let new = NewKey::new("Zapier integration");
/// let issued = Issuer::new("acme_live")?.issue(&store, new, Actor::new("anna@example.com")).await?;
/// store.revoke(issued.key.id, Actor::SYSTEM).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Actor<'a>(&'a str);

impl<'a> Actor<'a> {
    /// The application itself, such as a scheduled job. The default. Entries have no actor.
    pub const SYSTEM: Self = Self("");

    /// A user with this name, such as an email address or an id. The name may come from a request. Equals
    /// [`Actor::SYSTEM`] if it is empty.
    pub const fn new(name: &'a str) -> Self {
        Self(name)
    }

    /// The name as stored in entries: the first 200 characters, with control characters replaced by U+FFFD. `None`
    /// for [`Actor::SYSTEM`].
    ///
    /// ```
    /// # use keytally::key::Actor;
    /// assert_eq!(Actor::new("anna\n").to_name().as_deref(), Some("anna\u{fffd}"));
    /// assert_eq!(Actor::SYSTEM.to_name(), None);
    /// ```
    pub fn to_name(self) -> Option<String> {
        let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let name: String = self.0.chars().take(200).map(shown).collect();
        (!name.is_empty()).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_truncated_and_sanitized() {
        let long = "ä".repeat(300);
        assert_eq!(Actor::new(&long).to_name(), Some("ä".repeat(200)));
        let odd = Actor::new("a\0b\r\n\u{85}\u{2028}c").to_name();
        assert_eq!(
            odd.as_deref(),
            Some("a\u{fffd}b\u{fffd}\u{fffd}\u{fffd}\u{2028}c")
        );
        assert_eq!(Actor::new(""), Actor::SYSTEM);
        assert_eq!(Actor::default(), Actor::SYSTEM);
    }
}
