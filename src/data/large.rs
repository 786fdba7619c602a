//! Values that are too large for memory: kept as objects of their own, in parts, and only named where they would stand.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A value that stands elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeValue {
    /// What its parts' paths begin with.
    pub path: String,
    /// How many parts; each but the last is of an even number of bytes.
    pub parts: u32,
    /// Bytes of all parts.
    pub bytes: u64,
    /// What they are.
    pub form: Form,
}

/// What the bytes of a large value's parts are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// The value.
    #[default]
    Plain,
    /// `\x`, then two digits a byte.
    Hex,
    /// A byte that is a version's number, then the value.
    Versioned,
}

impl LargeValue {
    /// Paths of its parts, in order.
    pub fn part_paths(&self) -> impl Iterator<Item = String> {
        (0..self.parts).map(|part| part_path(&self.path, part))
    }

    /// Bytes of the value itself.
    pub fn size(&self) -> u64 {
        match self.form {
            Form::Plain => self.bytes,
            Form::Hex => self.bytes.saturating_sub(2) / 2,
            Form::Versioned => self.bytes.saturating_sub(1),
        }
    }

    /// What a part has of the value itself; none if it is not of the value's form.
    pub fn plain<'a>(&self, part: u32, bytes: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let skipped = match self.form {
            Form::Hex if part == 0 => 2,
            Form::Versioned if part == 0 => 1,
            _ => 0,
        };
        let bytes = bytes.get(skipped..)?;
        match self.form {
            Form::Hex => hex::decode(bytes).ok().map(Cow::Owned),
            Form::Plain | Form::Versioned => Some(Cow::Borrowed(bytes)),
        }
    }
}

/// The path of a part of the value at `path`.
pub fn part_path(path: &str, part: u32) -> String {
    format!("{path}.{part}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_every_form_are_the_value() {
        for (form, parts) in [
            (Form::Plain, ["ab", "cde"].map(str::as_bytes)),
            (Form::Hex, ["\\x6162", "636465"].map(str::as_bytes)),
            (Form::Versioned, ["\u{1}ab", "cde"].map(str::as_bytes)),
        ] {
            let bytes = parts.iter().map(|part| part.len() as u64).sum();
            let value = LargeValue { path: "p".into(), parts: 2, bytes, form };
            let plain: Vec<u8> = (0..).zip(parts).flat_map(|(part, bytes)| value.plain(part, bytes).unwrap().into_owned()).collect();
            assert_eq!((plain.as_slice(), value.size()), (&b"abcde"[..], 5), "{form:?}");
        }
        let odd = LargeValue { path: "p".into(), parts: 1, bytes: 3, form: Form::Hex };
        assert_eq!((odd.plain(0, b"\\xa"), odd.plain(1, b"zz")), (None, None));
    }
}
