//! Credentials that must not turn up: what was handed over is looked for in everything that was written.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use url::form_urlencoded;

/// Shorter than this says nothing: it stands in any text by chance.
const SHORTEST: usize = 6;

/// What is looked for: credentials in every way that text may hold them.
#[derive(Default)]
pub struct Canaries(Vec<(String, String)>);

impl Canaries {
    /// Looks for a credential too. `name` says in a test's failure which it was.
    pub fn add(&mut self, name: &str, value: &str) {
        // A private key is as secret line by line, a shared access signature by its signature alone.
        let signature = form_urlencoded::parse(value.as_bytes()).find(|(key, _)| key == "sig").map(|(_, signature)| signature.into_owned());
        let parts: Vec<&str> = match &signature {
            Some(signature) => vec![signature],
            None => value.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect(),
        };
        for part in parts.into_iter().filter(|part| part.len() >= SHORTEST) {
            let encoded: String = form_urlencoded::byte_serialize(part.as_bytes()).collect();
            let quoted = serde_json::to_string(part).unwrap();
            let bytes = format!("{:?}", part.as_bytes());
            let mut forms = vec![part.to_owned(), encoded.replace('+', "%20"), encoded, quoted.trim_matches('"').to_owned(), bytes];
            forms.extend([STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD].map(|engine| engine.encode(part)));
            forms.sort();
            forms.dedup();
            self.0.extend(forms.into_iter().map(|form| (name.to_owned(), form)));
        }
    }

    /// Looks for every value of a Secret, as the API server holds it, but for those that are public.
    pub fn add_secret(&mut self, name: &str, data: impl IntoIterator<Item = (String, Vec<u8>)>) {
        for (key, value) in data {
            if !matches!(key.as_str(), "username" | "tls.crt" | "ca.crt") {
                self.add(&format!("{name}.{key}"), &String::from_utf8_lossy(&value));
            }
        }
    }

    /// The first that stands in the text, with what is around it.
    pub fn found_in(&self, text: &str) -> Option<String> {
        self.0.iter().find_map(|(name, form)| {
            let line = text.lines().find(|line| line.contains(form.as_str()))?;
            let around: String = line.chars().take(600).collect();
            Some(format!("{name} stands in: {around}"))
        })
    }

    /// Panics if one stands in the text; `what` says whose text it is.
    pub fn absent(&self, what: &str, text: &str) {
        assert!(!self.0.is_empty(), "there is nothing to look for");
        if let Some(found) = self.found_in(text) {
            panic!("{what}: {found}");
        }
    }
}
