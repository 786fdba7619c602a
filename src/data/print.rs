//! Values as text: as PostgreSQL prints them under the fixed session settings, whichever system they come from. Pure.

use arrow::{
    array::{Array, AsArray as _},
    datatypes::{
        Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
        TimestampMicrosecondType,
    },
};

use super::Travel;

const DAY_MICROS: i128 = 86_400_000_000;
/// In units of 100 nanoseconds.
const DAY_UNITS: i128 = 864_000_000_000;

/// A value of an array of the type that `travel` gives, which is not NULL. Of a second's fraction, microseconds.
pub fn value(travel: Travel, array: &dyn Array, row: usize) -> String {
    match travel {
        Travel::Bool => array.as_boolean().value(row).to_string(),
        Travel::Int16 => array.as_primitive::<Int16Type>().value(row).to_string(),
        Travel::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        Travel::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        Travel::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            float(value.into(), &format!("{value:e}"), 6)
        }
        Travel::Float64 => {
            let value = array.as_primitive::<Float64Type>().value(row);
            float(value, &format!("{value:e}"), 15)
        }
        Travel::Decimal { .. } => array.as_primitive::<Decimal128Type>().value_as_string(row),
        Travel::Date => date(array.as_primitive::<Date32Type>().value(row).into()),
        Travel::Time => time(array.as_primitive::<Time64MicrosecondType>().value(row)),
        Travel::Time7 => time(array.as_primitive::<Int64Type>().value(row).div_euclid(10)),
        Travel::Timestamp => moment(array.as_primitive::<TimestampMicrosecondType>().value(row).into(), ""),
        Travel::Timestamp7 => moment(array.as_primitive::<Int64Type>().value(row).div_euclid(10).into(), ""),
        Travel::TimestampTz => moment(array.as_primitive::<TimestampMicrosecondType>().value(row).into(), "+00"),
        Travel::TimestampOffset => {
            let text = array.as_string::<i32>().value(row);
            read_moment_at(text).map_or_else(|| text.to_owned(), |units| moment(units.div_euclid(10), "+00"))
        }
        Travel::Utf8 | Travel::Text => array.as_string::<i32>().value(row).to_owned(),
        Travel::Binary => format!("\\x{}", hex::encode(array.as_binary::<i32>().value(row))),
        Travel::Uuid => uuid::Uuid::from_slice(array.as_fixed_size_binary().value(row)).unwrap_or_default().to_string(),
    }
}

/// A value of a key's column: with all digits of a second's fraction, since another digit is another key. A moment with an offset is
/// told in UTC, as the system compares it.
pub fn key(travel: Travel, array: &dyn Array, row: usize) -> String {
    let units = || i128::from(array.as_primitive::<Int64Type>().value(row));
    match travel {
        Travel::Time7 => moment7(units()).split_off("1970-01-01 ".len()),
        Travel::Timestamp7 => moment7(units()),
        Travel::TimestampOffset => {
            let text = array.as_string::<i32>().value(row);
            read_moment_at(text).map_or_else(|| text.to_owned(), |units| moment_at(units, 0, 7))
        }
        _ => value(travel, array, row),
    }
}

/// A moment with seven digits of the second's fraction. `units`: of 100 nanoseconds since 1970-01-01.
fn moment7(units: i128) -> String {
    let mut text = moment_at(units, 0, 7);
    text.truncate(text.len() - " +00:00".len());
    text
}

/// The fewest digits that tell a number apart, given as Rust's `{:e}` has them: without an exponent from 0.0001 to below
/// 10^`widest`.
fn float(class: f64, shortest: &str, widest: i32) -> String {
    if class.is_nan() {
        return "NaN".to_owned();
    }
    if class.is_infinite() {
        return if class > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let Some((digits, exponent)) = shortest.split_once('e') else { return shortest.to_owned() };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if !(-4..widest).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let digits = digits.replace('.', "");
    if exponent < 0 {
        return format!("{sign}0.{}{digits}", "0".repeat((-exponent - 1) as usize));
    }
    let whole = exponent as usize + 1;
    match digits.split_at_checked(whole).filter(|(_, rest)| !rest.is_empty()) {
        Some((whole, rest)) => format!("{sign}{whole}.{rest}"),
        None => format!("{sign}{digits:0<whole$}"),
    }
}

/// A date. `day`: since 1970-01-01.
pub fn date(day: i64) -> String {
    let (date, era) = civil(day);
    format!("{date}{era}")
}

/// A time of day. `micros`: since midnight.
pub fn time(micros: i64) -> String {
    let seconds = micros / 1_000_000;
    let fraction = match micros % 1_000_000 {
        0 => String::new(),
        micros => format!(".{micros:06}").trim_end_matches('0').to_owned(),
    };
    format!("{:02}:{:02}:{:02}{fraction}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A moment. `micros`: since 1970-01-01; `zone`: what stands behind the time.
pub fn moment(micros: i128, zone: &str) -> String {
    let (date, era) = civil(micros.div_euclid(DAY_MICROS) as i64);
    format!("{date} {}{zone}{era}", time(micros.rem_euclid(DAY_MICROS) as i64))
}

/// A moment at an offset from UTC, as [`Travel::TimestampOffset`] has it. `units`: of 100 nanoseconds since 1970-01-01 in UTC;
/// `offset`: minutes; `digits` of the second's fraction.
pub fn moment_at(units: i128, offset: i16, digits: u8) -> String {
    let local = units + i128::from(offset) * 600_000_000;
    let (date, _) = civil(local.div_euclid(DAY_UNITS) as i64);
    let of_day = local.rem_euclid(DAY_UNITS) as i64;
    let (seconds, fraction) = (of_day / 10_000_000, of_day % 10_000_000);
    let digits = usize::from(digits.min(7));
    let fraction = &format!(".{fraction:07}")[..if digits == 0 { 0 } else { digits + 1 }];
    let (sign, offset) = (if offset < 0 { '-' } else { '+' }, offset.unsigned_abs());
    let time = format!("{:02}:{:02}:{:02}{fraction}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{date} {time} {sign}{:02}:{:02}", offset / 60, offset % 60)
}

/// The moment of [`moment_at`]'s text.
pub fn read_moment_at(text: &str) -> Option<i128> {
    let (moment, offset) = text.rsplit_once(' ')?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let minutes = hours.parse::<i128>().ok()? * 60 + minutes.parse::<i128>().ok()?;
    let minutes = if offset.starts_with('-') { -minutes } else { minutes };
    Some(read_moment(moment)? - minutes * 600_000_000)
}

/// A moment without a zone, in units of 100 nanoseconds since 1970-01-01.
pub fn read_moment(text: &str) -> Option<i128> {
    let (date, time) = text.split_once(' ')?;
    Some(i128::from(read_date(date)?) * DAY_UNITS + i128::from(read_time(time)?))
}

/// A date of our era, in days since 1970-01-01.
pub fn read_date(text: &str) -> Option<i64> {
    let mut parts = text.split('-').map(|part| part.parse::<i64>().ok());
    Some(days_of(parts.next()??, parts.next()??, parts.next()??))
}

/// A time of day, in units of 100 nanoseconds since midnight.
pub fn read_time(text: &str) -> Option<i64> {
    let (time, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = time.split(':').map(|part| part.parse::<i64>().ok());
    let seconds = parts.next()?? * 3600 + parts.next()?? * 60 + parts.next()??;
    let fraction: i64 = format!("{fraction:0<7}").get(..7)?.parse().ok()?;
    Some(seconds * 10_000_000 + fraction)
}

/// The date of a day since 1970-01-01 in the proleptic Gregorian calendar, and ` BC` or nothing. By 400-year eras that begin on
/// March 1 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(day: i64) -> (String, &'static str) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    (format!("{year:04}-{month:02}-{day_of_month:02}"), era)
}

/// The inverse of `civil`, for years of our era.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another digit is another key, and another offset is none.
    #[test]
    fn keys_have_all_their_digits() {
        let units = arrow::array::Int64Array::from(vec![123_456_789, -1]);
        assert_eq!(key(Travel::Time7, &units, 0), "00:00:12.3456789");
        assert_eq!(key(Travel::Timestamp7, &units, 1), "1969-12-31 23:59:59.9999999");
        assert_eq!(read_moment("1969-12-31 23:59:59.9999999"), Some(-1));
        let offsets = arrow::array::StringArray::from(vec!["2024-03-01 01:30:00.1234567 +02:00", "2024-02-29 23:30:00.1234567 +00:00"]);
        assert_eq!(key(Travel::TimestampOffset, &offsets, 0), "2024-02-29 23:30:00.1234567 +00:00");
        assert_eq!(key(Travel::TimestampOffset, &offsets, 0), key(Travel::TimestampOffset, &offsets, 1));
    }

    #[test]
    fn floats_print_as_postgresql_does() {
        let double = |value: f64| float(value, &format!("{value:e}"), 15);
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (100.0, "100"),
            (0.0001, "0.0001"),
            (0.000_012_5, "1.25e-05"),
            (-123_456.789, "-123456.789"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (1.7e308, "1.7e+308"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(double(value), text);
        }
        let single = |value: f32| float(value.into(), &format!("{value:e}"), 6);
        assert_eq!((single(0.1).as_str(), single(123_456.0).as_str(), single(1_234_567.0).as_str()), ("0.1", "123456", "1.234567e+06"));
    }

    #[test]
    fn moments_keep_their_digits_and_offset_and_compare_in_utc() {
        let units = read_moment_at("2026-11-21 12:00:00.1234567 +02:00").unwrap();
        assert_eq!(moment_at(units, 120, 7), "2026-11-21 12:00:00.1234567 +02:00");
        assert_eq!(moment_at(units, -210, 3), "2026-11-21 06:30:00.123 -03:30");
        assert_eq!(moment(units.div_euclid(10), "+00"), "2026-11-21 10:00:00.123456+00");
        for text in ["0001-01-01 00:00:00 +00:00", "9999-12-31 23:59:59.9999999 +14:00", "1969-12-31 23:59:59.5 -00:01"] {
            let digits = text.split(['.', ' ']).nth(2).filter(|_| text.contains('.')).map_or(0, str::len);
            let offset = if text.ends_with("+14:00") {
                840
            } else if text.ends_with("-00:01") {
                -1
            } else {
                0
            };
            assert_eq!(moment_at(read_moment_at(text).unwrap(), offset, digits as u8), text);
        }
    }

    #[test]
    fn dates_before_our_era_say_so() {
        assert_eq!((date(0).as_str(), date(-719_162).as_str(), date(-719_163).as_str()), ("1970-01-01", "0001-01-01", "0001-12-31 BC"));
    }
}
