//! Log sequence numbers.

use std::{fmt, str::FromStr};

use crate::{data::Position, source::Error};

/// A byte position in PostgreSQL's write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl Lsn {
    /// As the rest of the program writes it: text order is log order.
    pub fn position(self) -> Position {
        Position(format!("{:08X}/{:08X}", self.0 >> 32, self.0 & 0xffff_ffff))
    }

    /// From the form that [`Lsn::position`] writes.
    pub fn from_position(position: &Position) -> Result<Self, Error> {
        position.0.parse()
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    /// Reads PostgreSQL's form, `16/B374D848`, with or without leading zeros.
    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = |part: &str| u32::from_str_radix(part, 16).ok();
        let (high, low) = text.split_once('/').ok_or_else(|| not_an_lsn(text))?;
        match (parse(high), parse(low)) {
            (Some(high), Some(low)) => Ok(Self(u64::from(high) << 32 | u64::from(low))),
            _ => Err(not_an_lsn(text)),
        }
    }
}

fn not_an_lsn(text: &str) -> Error {
    Error::SourceError(format!("{text:?} is not a position of a PostgreSQL log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_order_of_positions_is_log_order() {
        let lsn: Lsn = "1/FF".parse().unwrap();
        assert_eq!(lsn.position().0, "00000001/000000FF");
        assert_eq!(Lsn::from_position(&lsn.position()).unwrap(), lsn);
        assert!(Lsn(0xffff_ffff).position() < lsn.position());
        assert!("1FF".parse::<Lsn>().is_err());
    }
}
