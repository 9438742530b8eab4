//! A strict parser of a page's elements.

/// A start tag.
#[derive(Debug)]
pub(crate) struct Element {
    name: String,
    /// Names and values, still escaped.
    attributes: Vec<(String, String)>,
}

impl Element {
    /// The names of the element and its attributes, without user-provided values.
    pub(crate) fn shape(&self) -> String {
        let names = self.attributes.iter().map(|(name, _)| name.as_str());
        let names: Vec<_> = names.collect();
        format!("{} {}", self.name, names.join(" "))
    }

    /// Panics if the element links outside of the dashboard, or has an event handler or inline style.
    pub(crate) fn leads_within(&self, base: &str) {
        for (name, value) in &self.attributes {
            assert!(!name.starts_with("on") && name != "style", "{self:?}");
            if ["href", "src", "action", "formaction"].contains(&&**name) {
                let here = value.strip_prefix(base);
                let here = here.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
                assert!(here || value.starts_with('#'), "{self:?}");
            }
        }
    }
}

/// The start tags of a page in order.
pub(crate) fn elements(page: &str) -> Vec<Element> {
    let mut elements = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a page");
    while let Some((_, after)) = rest.split_once('<') {
        rest = after;
        if let Some(after) = rest.strip_prefix('/') {
            let (name, after) = after.split_once('>').expect("an end");
            assert!(is_name(name), "</{name}>");
            rest = after;
            continue;
        }
        let end = rest.find([' ', '>']).expect("an element");
        let (name, mut within) = rest.split_at(end);
        assert!(is_name(name), "<{name}");
        let mut attributes = Vec::new();
        while let Some(after) = within.strip_prefix(' ') {
            let end = after.find(['=', ' ', '>']).expect("an attribute");
            let (name, after) = after.split_at(end);
            assert!(is_name(name), "{name}");
            let (value, after) = match after.strip_prefix("=\"") {
                Some(after) => after.split_once('"').expect("a value"),
                None => ("", after),
            };
            assert!(!value.contains('<'), "{name} is {value}");
            attributes.push((name.into(), value.into()));
            within = after;
        }
        rest = within.strip_prefix('>').expect("the end of a tag");
        elements.push(Element {
            name: name.into(),
            attributes,
        });
    }
    elements
}

fn is_name(name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(part)
}

/// A harmless text of the same length.
pub(crate) fn harmless(text: &str) -> String {
    let letter = |c: char| match c.len_utf8() {
        1 if c.is_ascii_alphanumeric() => c,
        1 => 'x',
        // Multi-byte, since some limits are in bytes.
        _ => '中',
    };
    text.chars().map(letter).collect()
}
