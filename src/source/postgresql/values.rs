//! Values of PostgreSQL's native types, from their binary form (`…send`) and from their text form under the fixed session
//! settings. Both give the same: a native value, or the exact text of one that the Parquet type cannot hold.

use crate::data::print;

/// Days from PostgreSQL's epoch (2000-01-01) back to Unix's.
const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * DAY_MICROS;
/// Microseconds of a day.
const DAY_MICROS: i64 = 86_400_000_000;

/// A value that could be read.
#[derive(Debug, PartialEq)]
pub enum Value<T> {
    /// In the native type.
    Native(T),
    /// Outside the native type: what PostgreSQL prints.
    Exact(String),
}

/// A value that is not of the form that its type has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

type Read<T> = Result<Value<T>, Malformed>;

/// A fixed number of bytes.
pub fn bytes<const N: usize>(raw: &[u8]) -> Result<[u8; N], Malformed> {
    raw.try_into().map_err(|_| Malformed)
}

/// `boolout` writes `t` or `f`.
pub fn bool_text(text: &str) -> Result<bool, Malformed> {
    match text {
        "t" => Ok(true),
        "f" => Ok(false),
        _ => Err(Malformed),
    }
}

/// `numeric` with a scale, as an integer of `10^-scale`.
pub fn numeric_binary(raw: &[u8], scale: i8) -> Read<i128> {
    // numeric_send: number of base-10000 digits, weight of the first, sign, display scale, digits.
    let (head, digits) = raw.split_first_chunk::<8>().ok_or(Malformed)?;
    let field = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    match field(4) {
        0x0000 | 0x4000 => {}
        0xC000 => return Ok(Value::Exact("NaN".to_owned())),
        0xD000 => return Ok(Value::Exact("Infinity".to_owned())),
        0xF000 => return Ok(Value::Exact("-Infinity".to_owned())),
        _ => return Err(Malformed),
    }
    let count = usize::from(field(0));
    let weight = i32::from(field(2) as i16);
    if digits.len() != count * 2 {
        return Err(Malformed);
    }
    let mut value: i128 = 0;
    for (index, digit) in digits.chunks_exact(2).enumerate() {
        let digit = i128::from(u16::from_be_bytes([digit[0], digit[1]]));
        // Power of ten of this digit group in units of the scale. Below zero only in the last group, whose low decimal
        // digits are zeros.
        let power = 4 * (weight - index as i32) + i32::from(scale);
        let part = if power >= 0 {
            10i128.checked_pow(power as u32).and_then(|unit| digit.checked_mul(unit)).ok_or(Malformed)?
        } else {
            let unit = 10i128.checked_pow(power.unsigned_abs()).ok_or(Malformed)?;
            if digit % unit != 0 {
                return Err(Malformed);
            }
            digit / unit
        };
        value = value.checked_add(part).ok_or(Malformed)?;
    }
    Ok(Value::Native(if field(4) == 0x4000 { -value } else { value }))
}

/// `numeric` with a scale, from `-12.30`.
pub fn numeric_text(text: &str, scale: i8) -> Read<i128> {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        return Ok(Value::Exact(text.to_owned()));
    }
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let missing = u32::try_from(i64::from(scale) - fraction.len() as i64).map_err(|_| Malformed)?;
    let mut value: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        if !digit.is_ascii_digit() {
            return Err(Malformed);
        }
        value = value.checked_mul(10).and_then(|v| v.checked_add(i128::from(digit - b'0'))).ok_or(Malformed)?;
    }
    value = 10i128.checked_pow(missing).and_then(|unit| value.checked_mul(unit)).ok_or(Malformed)?;
    Ok(Value::Native(if negative { -value } else { value }))
}

/// `date`: days since 2000-01-01, the extremes are the infinities. All finite dates fit.
pub fn date_binary(raw: &[u8]) -> Read<i32> {
    Ok(match i32::from_be_bytes(bytes(raw)?) {
        i32::MAX => Value::Exact("infinity".to_owned()),
        i32::MIN => Value::Exact("-infinity".to_owned()),
        days => Value::Native(days.checked_add(EPOCH_DAYS).ok_or(Malformed)?),
    })
}

/// `date` from `2024-02-29` or `0044-03-15 BC`.
pub fn date_text(text: &str) -> Read<i32> {
    if matches!(text, "infinity" | "-infinity") {
        return Ok(Value::Exact(text.to_owned()));
    }
    let (date, before_christ) = era(text);
    i32::try_from(days(date, before_christ)?).map(Value::Native).map_err(|_| Malformed)
}

/// `time`: microseconds since midnight; 24:00:00 is one too many for Parquet.
pub fn time_binary(raw: &[u8]) -> Read<i64> {
    Ok(match i64::from_be_bytes(bytes(raw)?) {
        DAY_MICROS => Value::Exact("24:00:00".to_owned()),
        micros => Value::Native(micros),
    })
}

/// `time` from `23:59:59.999999`.
pub fn time_text(text: &str) -> Read<i64> {
    Ok(match clock(text)? {
        DAY_MICROS => Value::Exact("24:00:00".to_owned()),
        micros => Value::Native(micros),
    })
}

/// `timestamp` and `timestamptz`: microseconds since 2000-01-01 (UTC), the extremes are the infinities. Moments of the years
/// 294247 to 294276 do not fit when counted from 1970. `zone`: what is printed behind one of those.
pub fn timestamp_binary(raw: &[u8], zone: &str) -> Read<i64> {
    Ok(match i64::from_be_bytes(bytes(raw)?) {
        i64::MAX => Value::Exact("infinity".to_owned()),
        i64::MIN => Value::Exact("-infinity".to_owned()),
        micros => match micros.checked_add(EPOCH_MICROS) {
            Some(micros) => Value::Native(micros),
            None => Value::Exact(print::moment(i128::from(micros) + i128::from(EPOCH_MICROS), zone)),
        },
    })
}

/// `timestamp` and `timestamptz` from `2024-02-29 12:00:00.5`, `…+00`, `… BC`. `zone`: what must stand behind the time.
pub fn timestamp_text(text: &str, zone: &str) -> Read<i64> {
    if matches!(text, "infinity" | "-infinity") {
        return Ok(Value::Exact(text.to_owned()));
    }
    let (moment, before_christ) = era(text);
    let (date, time) = moment.strip_suffix(zone).ok_or(Malformed)?.split_once(' ').ok_or(Malformed)?;
    let micros = i128::from(days(date, before_christ)?) * i128::from(DAY_MICROS) + i128::from(clock(time)?);
    Ok(i64::try_from(micros).map_or_else(|_| Value::Exact(text.to_owned()), Value::Native))
}

/// `bytea` from `\x0aff`.
pub fn bytea_text(text: &str) -> Result<Vec<u8>, Malformed> {
    hex::decode(text.strip_prefix("\\x").ok_or(Malformed)?).map_err(|_| Malformed)
}

/// `uuid` from its 36 characters.
pub fn uuid_text(text: &str) -> Result<[u8; 16], Malformed> {
    uuid::Uuid::try_parse(text).map(uuid::Uuid::into_bytes).map_err(|_| Malformed)
}

fn era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |rest| (rest, true))
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
fn days(date: &str, before_christ: bool) -> Result<i64, Malformed> {
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().map_err(|_| Malformed));
    let mut part = || parts.next().ok_or(Malformed)?;
    let (year, month, day) = (part()?, part()?, part()?);
    // The year before 1 AD is 1 BC.
    let year = if before_christ { 1 - year } else { year };
    // Counted in years that begin in March, so that the leap day is a year's last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Ok(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

/// Microseconds since midnight.
fn clock(time: &str) -> Result<i64, Malformed> {
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut parts = whole.splitn(3, ':').map(|part| part.parse::<i64>().map_err(|_| Malformed));
    let mut part = || parts.next().ok_or(Malformed)?;
    let seconds = part()? * 3600 + part()? * 60 + part()?;
    if fraction.len() > 6 {
        return Err(Malformed);
    }
    let micros = format!("{fraction:0<6}").parse::<i64>().map_err(|_| Malformed)?;
    Ok(seconds * 1_000_000 + micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(digits: &[u16], weight: i16, sign: u16, scale: u16) -> Vec<u8> {
        let head = [digits.len() as u16, weight as u16, sign, scale];
        head.iter().chain(digits).flat_map(|field| field.to_be_bytes()).collect()
    }

    #[test]
    fn reads_numerics_of_either_form_alike() {
        for (binary, text, scale, value) in [
            (numeric(&[], 0, 0, 2), "0.00", 2, 0),
            (numeric(&[1, 2345, 6700], 1, 0x4000, 2), "-12345.67", 2, -1_234_567),
            (numeric(&[5], -1, 0, 4), "0.0005", 4, 5),
            (numeric(&[5000], -1, 0, 1), "0.5", 1, 5),
            (numeric(&[1], 9, 0, 0), "1000000000000000000000000000000000000", 0, 10i128.pow(36)),
            (
                numeric(&[99, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999], 0, 0, 36),
                "99.999999999999999999999999999999999999",
                36,
                10i128.pow(38) - 1,
            ),
        ] {
            assert_eq!(numeric_binary(&binary, scale), Ok(Value::Native(value)), "{text}");
            assert_eq!(numeric_text(text, scale), Ok(Value::Native(value)), "{text}");
        }
        assert_eq!(numeric_binary(&numeric(&[], 0, 0xC000, 0), 2), Ok(Value::Exact("NaN".to_owned())));
        assert_eq!(numeric_text("NaN", 2), Ok(Value::Exact("NaN".to_owned())));
        assert_eq!(numeric_text("1.234", 2), Err(Malformed));
        assert_eq!(numeric_binary(&[0, 1], 2), Err(Malformed));
    }

    #[test]
    fn reads_dates_and_times_of_either_form_alike() {
        for (days_2000, text, unix) in
            [(0, "2000-01-01", 10_957), (-10_957, "1970-01-01", 0), (59, "2000-02-29", 11_016), (-730_485, "0001-01-01 BC", -719_528)]
        {
            assert_eq!(date_text(text), Ok(Value::Native(unix)), "{text}");
            assert_eq!(date_binary(&i32::to_be_bytes(days_2000)), Ok(Value::Native(unix)), "{text}");
            assert_eq!(print::date(i64::from(unix)), text);
        }
        assert_eq!(time_text("24:00:00"), Ok(Value::Exact("24:00:00".to_owned())));
        assert_eq!(time_text("01:02:03.4"), Ok(Value::Native(3_723_400_000)));
        assert_eq!(timestamp_text("1969-12-31 23:59:59.5+00", "+00"), Ok(Value::Native(-500_000)));
        assert_eq!(timestamp_text("1970-01-01 00:00:00", "+00"), Err(Malformed));
        assert_eq!(timestamp_binary(&i64::MIN.to_be_bytes(), ""), Ok(Value::Exact("-infinity".to_owned())));
    }

    #[test]
    fn prints_moments_that_do_not_fit_as_postgresql_does() {
        // 294276-12-31 23:59:59.999999, the last moment that PostgreSQL has.
        let last = 9_223_371_331_199_999_999i64;
        assert_eq!(timestamp_binary(&last.to_be_bytes(), "+00"), Ok(Value::Exact("294276-12-31 23:59:59.999999+00".to_owned())));
        let text = "294276-12-31 23:59:59.999999+00";
        assert_eq!(timestamp_text(text, "+00"), Ok(Value::Exact(text.to_owned())));
    }
}
